//! The site's TLS: which certificate is shown, and to whom another one.

use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context as _, Result, ensure};
use boring::{
    pkey::{PKey, Private},
    ssl::{
        AlpnError, ClientHello, ExtensionType, SelectCertError, Ssl, SslAcceptor, SslContext, SslMethod,
        SslVersion, select_next_proto,
    },
    x509::X509,
};

/// What browsers are offered, in the form of the extension (RFC 7301, section 3.1).
const PROTOCOLS: &[u8] = b"\x02h2\x08http/1.1";
/// What a certificate authority asks for when it checks who has the name (RFC 8737, section 6.2).
const CHALLENGE: &[u8] = b"\x0aacme-tls/1";

/// A certificate with its chain, the site's own first, and its key.
#[derive(Clone)]
pub struct Pair {
    /// The certificates.
    pub chain: Vec<X509>,
    /// The key of the first.
    pub key: PKey<Private>,
}

impl Pair {
    /// Reads PEM.
    ///
    /// # Errors
    /// It is none, or the key is another certificate's.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self> {
        let chain = X509::stack_from_pem(chain).context("the certificate is no PEM")?;
        let key = PKey::private_key_from_pem(key).context("the certificate's key is no PEM")?;
        let first = chain.first().context("there is no certificate")?;
        let same = first.public_key().is_ok_and(|public| public.public_eq(&key));
        ensure!(same, "the key is not that of the certificate");
        Ok(Self { chain, key })
    }
}

/// What connections are accepted with, now.
#[derive(Default)]
pub struct Tls {
    site: RwLock<Option<SslContext>>,
    challenge: Arc<RwLock<Option<SslContext>>>,
}

impl Tls {
    /// Shows this certificate to visitors from now on.
    ///
    /// # Errors
    /// BoringSSL's.
    pub fn set(&self, pair: &Pair) -> Result<()> {
        let context = self.context(Some(pair))?;
        *self.site.write().unwrap_or_else(PoisonError::into_inner) = Some(context);
        Ok(())
    }

    /// Shows this one to who asks for it by the challenge's protocol, until [`Self::end_challenge`].
    ///
    /// # Errors
    /// BoringSSL's.
    pub fn set_challenge(&self, pair: &Pair) -> Result<()> {
        let mut builder = certified(pair)?;
        builder.set_alpn_select_callback(|_, client| {
            select_next_proto(CHALLENGE, client).ok_or(AlpnError::ALERT_FATAL)
        });
        *self.challenge.write().unwrap_or_else(PoisonError::into_inner) =
            Some(builder.build().into_context());
        Ok(())
    }

    /// Shows the challenge's certificate no more.
    pub fn end_challenge(&self) {
        *self.challenge.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A new connection's state.
    pub(super) fn accept(&self) -> Result<Ssl> {
        let context = self.site.read().unwrap_or_else(PoisonError::into_inner).clone();
        // Before there is a certificate only the challenge is answered.
        let context = context.map_or_else(|| self.context(None), Ok)?;
        Ok(Ssl::new(&context)?)
    }

    fn context(&self, pair: Option<&Pair>) -> Result<SslContext> {
        let mut builder = match pair {
            Some(pair) => certified(pair)?,
            None => SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?,
        };
        builder.set_alpn_select_callback(|_, client| {
            select_next_proto(PROTOCOLS, client).ok_or(AlpnError::NOACK)
        });
        let (challenge, has_site) = (Arc::clone(&self.challenge), pair.is_some());
        builder.set_select_certificate_callback(move |mut hello| {
            if !asks_for_challenge(&hello) {
                return if has_site { Ok(()) } else { Err(SelectCertError::ERROR) };
            }
            let challenge = challenge.read().unwrap_or_else(PoisonError::into_inner).clone();
            // Without a challenge under way the protocol is one that this server does not know.
            let Some(challenge) = challenge else { return Err(SelectCertError::ERROR) };
            hello.ssl_mut().set_ssl_context(&challenge).map_err(|_| SelectCertError::ERROR)
        });
        Ok(builder.build().into_context())
    }
}

fn certified(pair: &Pair) -> Result<boring::ssl::SslAcceptorBuilder> {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
    builder.set_max_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_curves_list("X25519MLKEM768:X25519:P-256:P-384")?;
    let (first, rest) = pair.chain.split_first().context("there is no certificate")?;
    builder.set_certificate(first)?;
    for certificate in rest {
        builder.add_extra_chain_cert(certificate.clone())?;
    }
    builder.set_private_key(&pair.key)?;
    Ok(builder)
}

/// Whether the hello offers the challenge's protocol and nothing else (RFC 8737, section 3).
fn asks_for_challenge(hello: &ClientHello<'_>) -> bool {
    let offered = hello.get_extension(ExtensionType::APPLICATION_LAYER_PROTOCOL_NEGOTIATION);
    offered.and_then(|list| list.get(2..)).is_some_and(|list| list == CHALLENGE)
}
