//! BoringSSL between two buffers: records go in one at a time, what it writes comes out write by write.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};

use boring::asn1::Asn1Time;
use boring::error::ErrorStack;
use boring::ssl::{Error as SslError, Ssl, SslStream, SslVerifyMode};
use boring::x509::verify::{X509CheckFlags, X509VerifyFlags};
use boring::x509::{X509, X509VerifyError};
use qnet_proto::token::EchOffer;
use qnet_wire::name::ServerName;
use qnet_wire::redact::Redacted;

use super::chrome::CHROME_156;
use super::error::{HandshakeError, alert_meaning};
use super::keylog::{self, TrafficSecrets};
use super::roots::{Roots, prefixed};
use super::tickets::{self, Ticket};
use super::{ffi, wire};

/// Most names of a wrong certificate that an error shows.
const MAX_NAMES_SHOWN: usize = 3;

/// Where BoringSSL reads and writes.
#[derive(Default)]
struct Pipe {
    incoming: Vec<u8>,
    taken: usize,
    writes: Vec<Vec<u8>>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let waiting = self.incoming.get(self.taken..).unwrap_or_default();
        if waiting.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = waiting.len().min(buffer.len());
        buffer[..count].copy_from_slice(&waiting[..count]);
        self.taken += count;
        Ok(count)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writes.push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What BoringSSL did with what it was fed.
pub(super) enum Step {
    /// It wants more; these bytes are to be sent first, in one write each.
    More(Vec<Vec<u8>>),
    /// The handshake is over; these bytes (ChangeCipherSpec, Finished) are to be sent in one write each.
    Done(Vec<Vec<u8>>),
    /// It failed; these bytes (an alert, or nothing) are what Chrome would send before it closes.
    Failed(Vec<Vec<u8>>, HandshakeError),
}

/// What a connection is for, which shows in its hello.
#[derive(Debug)]
pub(super) enum Hello<'a> {
    /// A visit with a token in its Encrypted Client Hello.
    Token(&'a EchOffer),
    /// A plain visit, as Chrome makes it to a site without ECH: to load a page. With an earlier connection's ticket where
    /// there is one.
    Page(Option<Ticket>),
    /// The same, to open a websocket.
    Websocket(Option<Ticket>),
}

/// Whose certificates are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Those of the roots only.
    Roots,
    /// Anybody's for the right name and within their time; what else is wrong is told afterwards.
    AnyIssuer,
}

/// How a connection ended after its handshake.
#[derive(Debug)]
pub(crate) enum TlsEnd {
    /// close_notify.
    Closed,
    /// An alert, or bytes that do not open.
    Broken(HandshakeError),
}

/// One connection's BoringSSL client.
pub(super) struct Engine {
    stream: SslStream<Pipe>,
    name: ServerName,
    /// There is a token in the hello, which only the bridge can find.
    hides: bool,
}

impl Engine {
    /// A client that has sent nothing yet.
    pub(super) fn new(
        hello: &Hello<'_>,
        name: &ServerName,
        roots: &Roots,
        trust: Trust,
    ) -> Result<Self, ErrorStack> {
        let mut ssl = Ssl::new(&roots.context)?;
        if trust == Trust::AnyIssuer {
            // The verdict is kept all the same, for `doubt`.
            ssl.set_verify(SslVerifyMode::NONE);
        }
        match hello {
            Hello::Token(offer) => {
                // The inner name: the token. BoringSSL puts the ECHConfig's public name into the outer hello.
                ssl.set_hostname(&offer.token.inner_name())?;
                ssl.set_ech_config_list(&offer.config_list)?;
            }
            Hello::Page(ticket) | Hello::Websocket(ticket) => {
                ssl.set_hostname(name.as_str())?;
                ssl.set_enable_ech_grease(true);
                tickets::attach(&mut ssl)?;
                if let Some(ticket) = ticket {
                    ffi::resume(&mut ssl, ticket)?;
                }
            }
        }
        if matches!(hello, Hello::Websocket(_)) {
            let protocols = CHROME_156.websocket_alpn.iter().map(|protocol| protocol.as_bytes());
            ssl.set_alpn_protos(&prefixed(protocols))?;
        } else {
            ffi::offer_application_settings(&mut ssl, CHROME_156.alps)?;
        }
        let rules = ssl.verify_param_mut();
        // BoringSSL puts the public name here by itself once ECH is rejected; this is for the case that it is not.
        rules.set_host(name.as_str())?;
        rules.set_hostflags(X509CheckFlags::NEVER_CHECK_SUBJECT | X509CheckFlags::NO_PARTIAL_WILDCARDS);
        rules.set_flags(X509VerifyFlags::TRUSTED_FIRST);
        let hides = matches!(hello, Hello::Token(_));
        if hides {
            keylog::attach(&mut ssl)?;
        }
        Ok(Self { stream: SslStream::new(ssl, Pipe::default())?, name: name.clone(), hides })
    }

    /// Feeds one record, or nothing to begin.
    pub(super) fn feed(&mut self, record: &[u8]) -> Step {
        let pipe = self.stream.get_mut();
        pipe.incoming.clear();
        pipe.incoming.extend_from_slice(record);
        pipe.taken = 0;
        let result = self.stream.connect();
        let mut writes = std::mem::take(&mut self.stream.get_mut().writes);
        let error = match result {
            Ok(()) if self.hides => return Step::Failed(writes, HandshakeError::EchAccepted),
            Ok(()) => return Step::Done(writes),
            Err(error) if error.would_block() => return Step::More(writes),
            Err(error) => error,
        };
        if !self.hides || reason(&error) != Some(boring_sys::SSL_R_ECH_REJECTED) {
            return Step::Failed(writes, self.explain(&error));
        }
        // The last write is the ech_required alert, which a client without real ECH would not send.
        let alert = writes.pop().unwrap_or_default();
        let finished = writes.iter().all(|write| wire::record_types(write).is_some());
        if wire::record_types(&alert).as_deref() != Some(&[wire::APPLICATION_DATA])
            || writes.is_empty()
            || !finished
        {
            return Step::Failed(Vec::new(), HandshakeError::Unexpected("no alert in a write of its own"));
        }
        if self.stream.ssl().get_ech_name_override() != Some(self.name.as_str().as_bytes()) {
            return Step::Failed(Vec::new(), HandshakeError::WrongOffer { name: self.shown_name() });
        }
        Step::Done(writes)
    }

    /// Takes bytes after the handshake, any number; appends what was in them to `content`.
    ///
    /// # Errors
    /// The server's end, or what was wrong. What [`writes`](Self::writes) then gives (an alert, or nothing) is what Chrome
    /// would send.
    pub(super) fn read(&mut self, bytes: &[u8], content: &mut Vec<u8>) -> Result<(), TlsEnd> {
        let pipe = self.stream.get_mut();
        pipe.incoming.drain(..pipe.taken);
        pipe.taken = 0;
        pipe.incoming.extend_from_slice(bytes);
        let mut room = [0; 16_384];
        loop {
            match self.stream.ssl_read(&mut room) {
                Ok(count) => content.extend_from_slice(&room[..count]),
                Err(error) if error.would_block() => return Ok(()),
                Err(error) if error.code() == boring::ssl::ErrorCode::ZERO_RETURN => {
                    return Err(TlsEnd::Closed);
                }
                Err(error) => return Err(TlsEnd::Broken(self.explain(&error))),
            }
        }
    }

    /// Seals `content`, at most 16,384 bytes, as one record.
    pub(super) fn write(&mut self, content: &[u8]) -> Result<(), TlsEnd> {
        let written = self.stream.ssl_write(content);
        written.map(drop).map_err(|error| TlsEnd::Broken(self.explain(&error)))
    }

    /// What BoringSSL wrote since this was last asked.
    pub(super) fn writes(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.stream.get_mut().writes)
    }

    /// The ticket that came last of those that were not yet taken.
    pub(super) fn ticket(&self) -> Option<Ticket> {
        tickets::take(self.stream.ssl())
    }

    /// Whether the server took the ticket that was offered.
    pub(super) fn resumed(&self) -> bool {
        self.stream.ssl().session_reused()
    }

    /// The application traffic secrets, once [`Step::Done`] was returned. They are given once.
    pub(super) fn secrets(&self) -> TrafficSecrets {
        keylog::take(self.stream.ssl())
    }

    /// The application protocol that the server chose.
    pub(super) fn protocol(&self) -> Option<&[u8]> {
        self.stream.ssl().selected_alpn_protocol()
    }

    /// Whether the server asked for a client certificate, once [`Step::Done`] was returned.
    pub(super) fn wants_client_certificate(&self) -> bool {
        ffi::wants_client_certificate(self.stream.ssl())
    }

    /// The server's certificate.
    pub(super) fn certificate(&self) -> Option<X509> {
        self.stream.ssl().peer_certificate()
    }

    /// What a client would have against the certificate that was taken under [`Trust::AnyIssuer`].
    ///
    /// # Errors
    /// [`HandshakeError::Certificate`]: it is for other names, or out of date.
    pub(super) fn doubt(&self) -> Result<Option<String>, HandshakeError> {
        let Err(error) = self.stream.ssl().verify_result() else { return Ok(None) };
        let Some(certificate) = self.certificate() else {
            return Err(self.untrusted("it cannot be checked".into(), Vec::new()));
        };
        // The verdict is the first thing that is wrong; these may hide behind it.
        let rules = X509CheckFlags::NEVER_CHECK_SUBJECT | X509CheckFlags::NO_PARTIAL_WILDCARDS;
        if !certificate.check_host_with_flags(self.name.as_str(), rules)? {
            return Err(self.wrong_name(&certificate));
        }
        let now = Asn1Time::days_from_now(0)?;
        if *certificate.not_after() < now || *certificate.not_before() > now {
            let (from, until) = (certificate.not_before(), certificate.not_after());
            let why = format!("it is valid from {from} until {until}; is this machine's clock right?");
            return Err(self.untrusted(why, Vec::new()));
        }
        Ok(Some(error.error_string().into()))
    }

    fn explain(&self, error: &SslError) -> HandshakeError {
        match reason(error) {
            Some(boring_sys::SSL_R_CERTIFICATE_VERIFY_FAILED) => self.not_trusted(),
            // A reason above the offset is an alert that came in.
            Some(code) if let Ok(number) = u8::try_from(code - boring_sys::SSL_AD_REASON_OFFSET) => {
                HandshakeError::Alert { number, meaning: alert_meaning(number) }
            }
            _ => HandshakeError::Malformed(words(error)),
        }
    }

    fn not_trusted(&self) -> HandshakeError {
        let why = match self.stream.ssl().verify_result() {
            Ok(()) => "it cannot be checked",
            Err(error) if error != X509VerifyError::HOSTNAME_MISMATCH => error.error_string(),
            Err(error) => match self.certificate() {
                Some(certificate) => return self.wrong_name(&certificate),
                None => error.error_string(),
            },
        };
        self.untrusted(why.into(), Vec::new())
    }

    fn wrong_name(&self, certificate: &X509) -> HandshakeError {
        let names = names(certificate);
        let why = if names.is_empty() { "it names no host" } else { "it is for another name" };
        self.untrusted(why.into(), names)
    }

    fn untrusted(&self, why: String, names: Vec<String>) -> HandshakeError {
        HandshakeError::Certificate { name: self.shown_name(), why, names: Redacted(names) }
    }

    fn shown_name(&self) -> Redacted<String> {
        Redacted(self.name.to_string())
    }
}

/// BoringSSL's SSL reason code, the oldest on its stack, which is the cause.
fn reason(error: &SslError) -> Option<i32> {
    let stack = error.ssl_error()?;
    stack.errors().iter().find_map(|entry| entry.library_reason(boring_sys::ERR_LIB_SSL))
}

/// BoringSSL's reason in its own words, which are constants of its source.
fn words(error: &SslError) -> String {
    let stack = error.ssl_error().map(ErrorStack::errors).unwrap_or_default();
    let reasons: Vec<_> = stack.iter().filter_map(|entry| entry.reason()).collect();
    if reasons.is_empty() { error.to_string() } else { reasons.join(", ").replace('_', " ").to_lowercase() }
}

/// The first DNS names of a certificate. Its issuer may be anybody, so only what a log may show.
fn names(certificate: &X509) -> Vec<String> {
    let Some(all) = certificate.subject_alt_names() else { return Vec::new() };
    let names = all.iter().filter_map(|name| name.dnsname());
    let harmless = |name: &&str| name.strip_prefix("*.").unwrap_or(name).parse::<ServerName>().is_ok();
    names.filter(harmless).take(MAX_NAMES_SHOWN).map(str::to_owned).collect()
}
