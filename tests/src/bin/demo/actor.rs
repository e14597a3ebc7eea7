//! A role's process, seen from both sides: its parent starts it and reads what it says, a word and its value on each line.

use std::io::{self, BufRead, BufReader, PipeWriter, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use qnet_tests::support::process::Running;
use tokio::sync::Notify;

/// The argument that makes this program play a role.
pub(crate) const ROLE: &str = "--role";

/// How long a role may take to say what is awaited of it. A dial alone may take 30 s.
const PATIENCE: Duration = Duration::from_secs(45);

/// A role's process. It ends when this is dropped, and by itself when the parent ends.
pub(crate) struct Actor {
    name: &'static str,
    /// The role ends when this closes, which the kernel sees to however the parent ends.
    input: PipeWriter,
    lines: Receiver<String>,
    running: Running,
}

impl Actor {
    /// Starts this program again as `name`, with `arguments`.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn start(name: &'static str, arguments: &[&str]) -> Result<Self> {
        let (theirs, input) = io::pipe()?;
        let (output, out) = io::pipe()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(ROLE).arg(name).args(arguments).stdin(Stdio::from(theirs)).stdout(Stdio::from(out));
        // A group of its own: Ctrl-C is for the parent, whose end then tells its roles to tidy up.
        command.process_group(0);
        let running = Running::start(&format!("the {name}"), &mut command)?;
        // What is left of the child's ends of the pipes, so that its own end shows.
        drop(command);
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { name, input, lines, running })
    }

    /// Waits for a line that begins with `word`; gives its value. Other lines are passed over.
    ///
    /// # Errors
    /// The role ended, or nothing came in time.
    pub(crate) fn expect(&mut self, word: &str) -> Result<String> {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    if let Some(value) = line.strip_prefix(word).and_then(|rest| rest.strip_prefix(' ')) {
                        return Ok(value.to_owned());
                    }
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the {} ended too early", self.name),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{} did not say its \"{word}\" within {PATIENCE:?}", self.running)
                }
            }
        }
    }

    /// As [`expect`](Self::expect), for a value of several words.
    ///
    /// # Errors
    /// As there, and where there are fewer words than `N`. The last takes what is left.
    pub(crate) fn expect_words<const N: usize>(&mut self, word: &str) -> Result<[String; N]> {
        let value = self.expect(word)?;
        let words: Vec<String> = value.splitn(N, ' ').map(str::to_owned).collect();
        words.try_into().ok().with_context(|| format!("the {}'s \"{word}\" is cut short: {value}", self.name))
    }

    /// Gives the role its cue.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn cue(&mut self) -> Result<()> {
        self.input.write_all(b"cue\n").with_context(|| format!("the {} has ended", self.name))
    }
}

/// In a role: tells the parent a word and its value.
///
/// # Errors
/// The parent is gone.
pub(crate) fn say(word: &str, value: impl std::fmt::Display) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{word} {value}")?;
    Ok(out.flush()?)
}

/// In a role: what the parent's cues set off. When the parent ends, `tidy` runs and so ends the role.
pub(crate) fn heed_parent(tidy: impl FnOnce() + Send + 'static) -> Arc<Notify> {
    let cue = Arc::new(Notify::new());
    let notify = Arc::clone(&cue);
    thread::spawn(move || {
        for _ in io::stdin().lock().lines().map_while(Result::ok) {
            notify.notify_one();
        }
        tidy();
        std::process::exit(0);
    });
    cue
}
