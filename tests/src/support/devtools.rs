//! Headless Chromium driven over its DevTools protocol: one browser, and for each visit a context of its own, without cache,
//! cookies, connections or tickets from before.
//!
//! Messages are JSON, each ended by a zero byte, on the browser's descriptors 3 and 4 (`--remote-debugging-pipe`).

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long the browser may take to answer anything but a page load.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the browser may take to end.
const FAREWELL: Duration = Duration::from_secs(10);

/// Gives the browser its standard input and output as the two descriptors that it takes commands on.
const AS_DESCRIPTORS: &str = "exec 3<&0 4>&1 </dev/null >/dev/null 2>&1; exec \"$@\"";

/// Fulfilled when the page is loaded, and what its script fetches afterwards.
const LOADED: &str = "new Promise(loaded => document.readyState === 'complete' ? loaded() : \
    addEventListener('load', loaded)).then(() => window.done)";

/// A running browser; ends when dropped.
pub struct Browser {
    child: Child,
    to: ChildStdin,
    said: Receiver<Value>,
    /// The number of the last command.
    last: u64,
    _profile: TempDir,
}

/// A page in a context of its own. The context stays until [`Browser::close`].
#[derive(Debug)]
pub struct Page {
    context: String,
    /// From the order to load it to the end of all that it loads.
    pub took: Duration,
}

impl Browser {
    /// Starts it. Names are looked for as `rules` say, such as `MAP *.example.net 127.0.0.1`, and certificates are not checked.
    ///
    /// # Errors
    /// Debian's package `chromium` is not installed, or it does not answer.
    pub fn start(rules: &str) -> Result<Self> {
        let profile = TempDir::new()?;
        let mut child = Command::new("/bin/sh")
            .args(["-c", AS_DESCRIPTORS, "sh", "/usr/bin/chromium", "--remote-debugging-pipe"])
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--ignore-certificate-errors", "--disable-extensions"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("--host-resolver-rules={rules}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the shell does not start")?;
        let to = child.stdin.take().context("its input is a pipe")?;
        let said = listen(child.stdout.take().context("its output is a pipe")?);
        let mut browser = Self { child, to, said, last: 0, _profile: profile };
        browser.call(None, "Browser.getVersion", &json!({})).context("is chromium installed?")?;
        Ok(browser)
    }

    /// Loads a page in a new context: its load event, and then the promise `window.done` where the page has one.
    ///
    /// # Errors
    /// It cannot be had, or is not loaded within `limit`.
    pub fn open(&mut self, url: &str, limit: Duration) -> Result<Page> {
        self.open_as(None, url, limit)
    }

    /// The same, saying that it is another browser: the parameters of `Emulation.setUserAgentOverride`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as(&mut self, agent: Option<&Value>, url: &str, limit: Duration) -> Result<Page> {
        let context = self.text(None, "Target.createBrowserContext", &json!({}), "browserContextId")?;
        match self.load(&context, agent, url, limit) {
            Ok(took) => Ok(Page { context, took }),
            Err(error) => {
                self.dispose(&context)?;
                Err(error.context(url.to_owned()))
            }
        }
    }

    /// Ends a page, its context and its connections.
    ///
    /// # Errors
    /// The browser is gone.
    pub fn close(&mut self, page: &Page) -> Result<()> {
        self.dispose(&page.context)
    }

    fn dispose(&mut self, context: &str) -> Result<()> {
        self.call(None, "Target.disposeBrowserContext", &json!({ "browserContextId": context })).map(|_| ())
    }

    fn load(&mut self, context: &str, agent: Option<&Value>, url: &str, limit: Duration) -> Result<Duration> {
        let blank = json!({ "url": "about:blank", "browserContextId": context });
        let target = self.text(None, "Target.createTarget", &blank, "targetId")?;
        let attach = json!({ "targetId": target, "flatten": true });
        let session = self.text(None, "Target.attachToTarget", &attach, "sessionId")?;
        if let Some(agent) = agent {
            self.call(Some(&session), "Emulation.setUserAgentOverride", agent)?;
        }
        let begun = Instant::now();
        let answer = self.call(Some(&session), "Page.navigate", &json!({ "url": url }))?;
        if let Some(why) = answer.get("errorText") {
            bail!("the browser says {why}");
        }
        let all = json!({ "expression": LOADED, "awaitPromise": true });
        let all = self.call_within(limit, Some(&session), "Runtime.evaluate", &all)?;
        if let Some(why) = all.get("exceptionDetails") {
            bail!("the page's script failed: {why}");
        }
        Ok(begun.elapsed())
    }

    /// Sends a command and gives its result.
    fn call(&mut self, session: Option<&str>, method: &str, params: &Value) -> Result<Value> {
        self.call_within(PATIENCE, session, method, params)
    }

    fn call_within(
        &mut self,
        limit: Duration,
        session: Option<&str>,
        method: &str,
        params: &Value,
    ) -> Result<Value> {
        self.last += 1;
        let mut command = json!({ "id": self.last, "method": method, "params": params });
        if let (Some(session), Some(fields)) = (session, command.as_object_mut()) {
            fields.insert("sessionId".into(), session.into());
        }
        let mut message = serde_json::to_vec(&command)?;
        message.push(0);
        self.to.write_all(&message).with_context(|| format!("the browser is gone before {method}"))?;
        let until = Instant::now() + limit;
        loop {
            let mut said = self.next(until).with_context(|| method.to_owned())?;
            if said.get("id").and_then(Value::as_u64) != Some(self.last) {
                continue;
            }
            if let Some(error) = said.get("error") {
                bail!("{method}: {error}");
            }
            return Ok(said.get_mut("result").map(Value::take).unwrap_or_default());
        }
    }

    /// The same, for one text of the result.
    fn text(&mut self, session: Option<&str>, method: &str, params: &Value, field: &str) -> Result<String> {
        let result = self.call(session, method, params)?;
        let text = result.get(field).and_then(Value::as_str);
        Ok(text.with_context(|| format!("{method} gave no {field}"))?.to_owned())
    }

    fn next(&mut self, until: Instant) -> Result<Value> {
        match self.said.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(said) => Ok(said),
            Err(RecvTimeoutError::Timeout) => bail!("the browser does not say so in time"),
            Err(RecvTimeoutError::Disconnected) => bail!("the browser has ended"),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Not SIGKILL, which would leave its children behind.
        let _ = Command::new("/bin/kill").arg(self.child.id().to_string()).status();
        let end = Instant::now() + FAREWELL;
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes up what the browser says, until it ends or nobody listens any more.
fn listen(from: ChildStdout) -> Receiver<Value> {
    let (sender, said) = channel();
    thread::spawn(move || {
        for message in BufReader::new(from).split(0).map_while(Result::ok) {
            // What is no JSON answers nothing.
            let Ok(message) = serde_json::from_slice(&message) else { continue };
            if sender.send(message).is_err() {
                break;
            }
        }
    });
    said
}
