//! Asks for what the flags left out, where there is somebody to ask.

use std::{
    fmt::Display,
    io::{self, BufRead, IsTerminal as _, Write},
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context as _, Result, bail};
use qnet_transport::decoy::Place;

use super::{Behind, Init};

/// Wrong answers to one question before it is given up.
const TRIES: u32 = 5;

/// The same with nothing missing.
pub(super) fn missing(init: Init) -> Result<Init> {
    let decoy = init.decoy.is_some() || init.site.is_some() || init.websocket;
    let origin = init.origin.is_some() || !init.behind_server();
    let named = !init.sni.is_empty() || init.site.is_some() || matches!(init.decoy, Some(Place::Name(..)));
    if init.address.is_some() && decoy && origin && init.behind.is_some() && named {
        return Ok(init);
    }
    if !io::stdin().is_terminal() {
        let flags = [
            ("--address ADDRESS:PORT", init.address.is_none()),
            ("--decoy HOST:PORT or --site FOLDER", !decoy),
            ("--origin ADDRESS:PORT", !origin),
            ("--sni NAME", !named),
            ("--behind tor|web", init.behind.is_none()),
        ];
        let flags: Vec<&str> = flags.iter().filter(|(_, missing)| *missing).map(|(flag, _)| *flag).collect();
        bail!("there is no terminal to ask on: give {}", flags.join(", "));
    }
    all(init, &mut io::stdin().lock(), &mut io::stderr())
}

fn all(mut init: Init, from: &mut impl BufRead, to: &mut impl Write) -> Result<Init> {
    let mut ask = Ask { from, to };
    if init.address.is_none() {
        let question =
            "Where will users connect to? This machine's public address and a port, such as 192.0.2.7:443";
        init.address = Some(ask.value(question, str::parse)?);
    }
    if init.decoy.is_none() && init.site.is_none() && !init.websocket {
        ask.site(&mut init)?;
    }
    if init.origin.is_none() && init.behind_server() {
        let question = "Where does your web server have the site without TLS, for this machine alone? Such as 127.0.0.1:8080";
        init.origin = Some(ask.value(question, str::parse)?);
    }
    if init.sni.is_empty() && init.site.is_none() && !matches!(init.decoy, Some(Place::Name(..))) {
        let question = "Under which name, as in its certificate? Several are separated by spaces";
        init.sni = ask.value(question, |text| {
            text.split_ascii_whitespace().map(str::parse).collect::<Result<Vec<_>, _>>()
        })?;
    }
    if init.behind.is_none() {
        let question = "What is behind the bridge: `tor`, or `web` to connect to web sites without tor?";
        init.behind = Some(ask.value(question, Behind::from_str)?);
    }
    if !init.start && init.root == Path::new("/") {
        let question = "Start it when all is written, tor included, and check it? `yes` or `no`";
        init.start = ask.value(question, yes_or_no)?;
    }
    Ok(init)
}

impl FromStr for Behind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "tor" => Ok(Self::Tor),
            "web" => Ok(Self::Web),
            _ => Err("it is tor or web"),
        }
    }
}

/// What answers strangers.
enum Site {
    Server(Place),
    Folder(PathBuf),
}

/// A folder begins with a slash, as no web server's place does. `served`: no flag speaks of a web server's site.
fn site(text: &str, served: bool) -> Result<Site, String> {
    match text.starts_with('/') {
        true if served => Ok(Site::Folder(text.into())),
        true => Err("--sni and --third-party-decoy are for the site of a web server: say where that listens"
            .to_owned()),
        false => text
            .parse()
            .map(Site::Server)
            .map_err(|error| format!("{error}; or the folder of a site, with its whole path")),
    }
}

fn yes_or_no(text: &str) -> Result<bool, &'static str> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("it is yes or no"),
    }
}

fn agreed(text: &str) -> Result<bool, &'static str> {
    match text {
        "yes" => Ok(true),
        _ => Err("without a certificate there is no site: it is yes, or Ctrl+C ends this"),
    }
}

struct Ask<'a, R, W> {
    from: &'a mut R,
    to: &'a mut W,
}

impl<R: BufRead, W: Write> Ask<'_, R, W> {
    /// What strangers meet: the site of a web server, or one that the bridge serves, and then what that needs.
    fn site(&mut self, init: &mut Init) -> Result<()> {
        let served = init.sni.is_empty() && !init.third_party_decoy;
        let question = "What will strangers meet? Best your own web site: where its web server listens, such as 127.0.0.1:8443. Without a \
                        web server: the folder with a site that the bridge serves under your own domain, such as /var/www/html";
        match self.value(question, |text| site(text, served))? {
            Site::Server(place) => init.decoy = Some(place),
            Site::Folder(folder) => {
                init.site = Some(folder);
                let question =
                    "Under which domain? One of your own that leads to this machine, such as www.example.com";
                init.domain = Some(self.value(question, str::parse)?);
                let question = "Its certificate comes from Let's Encrypt. Do you agree to the terms at https://letsencrypt.org/repository/? \
                                `yes`, or Ctrl+C";
                init.acme_terms_agreed = self.value(question, agreed)?;
            }
        }
        Ok(())
    }

    /// The answer, asked for until it is right.
    fn value<T, E: Display>(&mut self, question: &str, parse: impl Fn(&str) -> Result<T, E>) -> Result<T> {
        for _ in 0..TRIES {
            write!(self.to, "{question}\n> ").and_then(|()| self.to.flush()).context("cannot ask")?;
            let mut line = String::new();
            if self.from.read_line(&mut line).context("cannot read the answer")? == 0 {
                bail!("no answer; nothing was written");
            }
            let answer = line.trim();
            if answer.is_empty() {
                continue;
            }
            match parse(answer) {
                Ok(value) => return Ok(value),
                Err(error) => writeln!(self.to, "{error}").context("cannot ask")?,
            }
        }
        bail!("no answer that can be used; nothing was written")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        init: Init,
    }

    fn asked(flags: &[&str], answers: &str) -> (Result<Init>, String) {
        let init = Program::parse_from([&["init"], flags].concat()).init;
        let mut said = Vec::new();
        let init = all(init, &mut answers.as_bytes(), &mut said);
        (init, String::from_utf8(said).unwrap())
    }

    #[test]
    fn only_what_is_missing_is_asked_for_and_wrong_answers_are_explained() {
        let (init, said) = asked(
            &[],
            "here\n192.0.2.7:443\nlocalhost\n127.0.0.1:8443\n\na.example b.example\nTor\ntor\nno\n",
        );
        let init = init.unwrap();
        assert_eq!(init.address, Some("192.0.2.7:443".parse().unwrap()));
        assert_eq!(init.decoy, Some("127.0.0.1:8443".parse().unwrap()));
        assert_eq!((init.sni.len(), init.behind), (2, Some(Behind::Tor)));
        assert!(said.contains("localhost is not HOST:PORT") && said.contains("it is tor or web"), "{said}");
        let (init, said) =
            asked(&["--websocket"], "192.0.2.7:443\n127.0.0.1\n127.0.0.1:8080\na.example\nweb\nno\n");
        let init = init.unwrap();
        assert_eq!((init.origin, init.sni.len()), (Some("127.0.0.1:8080".parse().unwrap()), 1));
        assert!(said.contains("without TLS") && !said.contains("will take in"), "{said}");
        let flags = ["--address", "192.0.2.7:443", "--decoy", "www.example.com:8443"];
        let (init, said) = asked(&flags, "web\nNo\nyes\n");
        let init = init.unwrap();
        assert!(init.behind == Some(Behind::Web) && init.start && said.contains("it is yes or no"));
        assert_eq!(said.matches("> ").count(), 3, "{said}");
        // Another machine's services are not started from here.
        let (init, said) = asked(&[&flags[..], &["--root", "/mnt"]].concat(), "web\n");
        assert!(!init.unwrap().start && !said.contains("Start it"), "{said}");
    }

    #[test]
    fn who_has_no_web_server_is_asked_for_a_folder_and_a_domain() {
        let answers = "192.0.2.7:443\n/var/www/html\n192.0.2.7\nwww.example.com\nno\nyes\nweb\nno\n";
        let (init, said) = asked(&[], answers);
        let init = init.unwrap();
        assert_eq!(init.site, Some("/var/www/html".into()));
        assert_eq!((init.domain, init.decoy), (Some("www.example.com".parse().unwrap()), None));
        assert!(init.acme_terms_agreed && said.contains("letsencrypt.org"), "{said}");
        let (own, folder) = (said.find("your own web site"), said.find("Without a web server"));
        assert!(own.is_some() && own < folder, "{said}");
        // Who does not agree has no site, and who named a web server's has one already.
        assert!(
            asked(&[], &format!("192.0.2.7:443\n/var/www/html\nwww.example.com\n{}", "no\n".repeat(9)))
                .0
                .is_err()
        );
        let (init, said) =
            asked(&["--sni", "a.example"], "192.0.2.7:443\n/var/www/html\n127.0.0.1:8443\nweb\nno\n");
        assert_eq!((init.unwrap().site, said.contains("--sni and")), (None, true), "{said}");
    }

    #[test]
    fn no_answer_is_an_end() {
        assert!(asked(&[], "").0.is_err());
        assert!(asked(&[], &"x\n".repeat(100)).0.is_err());
    }
}
