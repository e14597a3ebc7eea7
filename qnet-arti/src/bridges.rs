//! Bridge lines as QNet and as Arti read them.

use std::net::SocketAddr;

use arti_client::config::pt::TransportConfigBuilder;
use arti_client::config::{BridgeConfigBuilder, TorClientConfigBuilder};
use qnet_transport::client::{Dialer, DialerConfig};
use qnet_transport::tls::Roots;
use qnet_wire::bridge_line::{BridgeLine, BridgeLineError, TRANSPORT};
use qnet_wire::error::{Kind, Retry, chain};

/// Why the transport is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// One of the lines, counted from 1, is none of a QNet bridge's.
    #[error("bridge line {number}: {}", chain(.source))]
    Line {
        /// Which one.
        number: usize,
        /// What is wrong with it.
        source: BridgeLineError,
    },
    /// Arti does not take one of the lines, counted from 1.
    #[error("bridge line {number} is not as Arti wants it: {reason}")]
    Arti {
        /// Which one.
        number: usize,
        /// Arti's words.
        reason: String,
    },
    /// No line was given.
    #[error("no bridge line: ask the bridge's operator for one")]
    NoLine,
    /// The certificates to check sites by cannot be read.
    #[error("the certificates to check sites by: {0}")]
    Roots(String),
    /// There is no port on loopback.
    #[error("cannot listen on 127.0.0.1")]
    Listen(#[source] std::io::Error),
    /// Arti cannot make its client or does not bootstrap; its own error says which, and what kind it is of.
    #[cfg(feature = "manager")]
    #[error("Arti: {0}")]
    Client(#[from] arti_client::Error),
}

impl Error {
    /// Who is at fault.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Line { .. } | Self::Arti { .. } | Self::NoLine => Kind::Misuse,
            Self::Roots(_) | Self::Listen(_) => Kind::Local,
            #[cfg(feature = "manager")]
            Self::Client(_) => Kind::Network,
        }
    }

    /// Whether the same can succeed later.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Listen(_) => Retry::Later,
            #[cfg(feature = "manager")]
            Self::Client(_) => Retry::Later,
            Self::Line { .. } | Self::Arti { .. } | Self::NoLine | Self::Roots(_) => Retry::Never,
        }
    }
}

/// A dialer as most programs want it: direct, believing Mozilla's roots and those in `SSL_CERT_FILE` and `SSL_CERT_DIR`.
///
/// # Errors
/// [`Error::Roots`].
pub fn dialer() -> Result<Dialer, Error> {
    let roots = Roots::load().map_err(|error| Error::Roots(chain(&error)))?;
    Ok(Dialer::new(DialerConfig::new(roots)))
}

/// Reads the lines.
pub(crate) fn parse(lines: &[impl AsRef<str>]) -> Result<Vec<BridgeLine>, Error> {
    if lines.is_empty() {
        return Err(Error::NoLine);
    }
    let parse = |(at, line): (usize, &_)| {
        let line: &str = AsRef::as_ref(line);
        line.parse().map_err(|source| Error::Line { number: at + 1, source })
    };
    lines.iter().enumerate().map(parse).collect()
}

/// Tells Arti of the bridges, and that their transport is at `address`.
pub(crate) fn declare(
    config: &mut TorClientConfigBuilder,
    lines: &[BridgeLine],
    address: SocketAddr,
) -> Result<(), Error> {
    let mut bridges = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let arti = |reason: String| Error::Arti { number: at + 1, reason };
        let bridge: BridgeConfigBuilder = line.to_string().parse().map_err(|error| arti(chain(&error)))?;
        bridges.push(bridge);
    }
    let mut transport = TransportConfigBuilder::default();
    #[expect(
        clippy::expect_used,
        reason = "Arti's names are letters, digits and underscores that begin with a letter"
    )]
    let name = TRANSPORT.parse().expect("a constant that a test parses");
    transport.protocols(vec![name]).proxy_addr(address);
    config.bridges().transports().push(transport);
    config.bridges().bridges().extend(bridges);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arti_client::TorClientConfig;

    const FINGERPRINT: &str = "0123456789ABCDEF0123456789ABCDEF01234567";
    const LINE: &str = "Bridge qnet 192.0.2.7:443 0123456789ABCDEF0123456789ABCDEF01234567 \
                        key=AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE sni=www.example.com";

    #[test]
    fn arti_takes_what_we_take() {
        let key = "key=AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";
        for line in [
            LINE.to_owned(),
            format!("{LINE} sni=example.org profile=web"),
            format!("qnet [2001:db8::7]:443 {FINGERPRINT} {key} url=https://www.example.com/a7Ge93kd"),
        ] {
            let mut config = TorClientConfig::builder();
            let lines = parse(&[line]).unwrap();
            declare(&mut config, &lines, "127.0.0.1:9".parse().unwrap()).unwrap();
            config.build().unwrap();
        }
    }

    #[test]
    fn arti_wants_a_fingerprint() {
        let lines = parse(&[LINE.replace(FINGERPRINT, "")]).unwrap();
        let mut config = TorClientConfig::builder();
        let error = declare(&mut config, &lines, "127.0.0.1:9".parse().unwrap()).unwrap_err();
        assert!(matches!(error, Error::Arti { number: 1, .. }), "{error}");
    }

    #[test]
    fn a_wrong_line_says_which_it_is() {
        let error = parse(&[LINE, "Bridge obfs4 192.0.2.7:443"]).unwrap_err();
        assert!(error.to_string().starts_with("bridge line 2: "), "{error}");
        assert!(matches!(parse(&[] as &[&str]), Err(Error::NoLine)));
        assert_eq!(error.retry(), Retry::Never);
    }
}
