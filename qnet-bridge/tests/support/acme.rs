//! A certificate authority that speaks as much of ACME as a client needs, and takes nothing on trust: signatures, nonces, addresses,
//! the key authorization, the challenge's certificate and the request for the certificate are all checked (RFC 8555, RFC 8737).

use std::{
    collections::HashSet,
    convert::Infallible,
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use boring::{
    asn1::Asn1Time,
    bn::BigNum,
    ec::{EcGroup, EcKey},
    ecdsa::EcdsaSig,
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private, Public},
    sha::sha256,
    ssl::{SslAcceptor, SslConnector, SslMethod, SslVerifyMode},
    stack::Stack,
    x509::{X509, X509Req, extension::SubjectAlternativeName},
};
use data_encoding::BASE64URL_NOPAD;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode, body::Bytes, body::Incoming, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use qnet_tests::support::ca::Certificates;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

/// The name under which the authority is asked.
pub(crate) const HOST: &str = "acme.example";
/// The identifier extension with its OID, criticality and the head of its value (RFC 8737, section 6.1), DER.
const IDENTIFIER: &[u8] = b"\x06\x08\x2b\x06\x01\x05\x05\x07\x01\x1f\x01\x01\xff\x04\x22\x04\x20";

/// A running authority.
pub(crate) struct Authority {
    pub(crate) directory: String,
    state: Arc<State>,
}

struct State {
    base: String,
    /// What signs; also whom clients are to believe about the site.
    issuer: (X509, PKey<Private>),
    /// Where the name under question is found.
    validate_at: SocketAddr,
    name: String,
    changing: Mutex<Changing>,
}

#[derive(Default)]
struct Changing {
    nonces: HashSet<String>,
    next: u64,
    account: Option<EcKey<Public>>,
    thumbprint: String,
    /// None, or how the challenge went.
    validated: Option<Result<(), String>>,
    chain: Option<Vec<u8>>,
    refused_nonces: u32,
    issued: u32,
    days: u32,
}

impl Authority {
    /// Starts one that finds `name` at `validate_at` and issues for so many days. Its own certificate and its authority's are in
    /// `folder`, those of the issued certificates' issuer in `issuer.pem` there.
    pub(crate) async fn start(folder: &Path, name: &str, validate_at: SocketAddr, days: u32) -> Result<Self> {
        let own = Certificates::make(folder, &[HOST])?;
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
        acceptor.set_private_key_file(&own.key, boring::ssl::SslFiletype::PEM)?;
        acceptor.set_certificate_file(&own.certificate, boring::ssl::SslFiletype::PEM)?;
        let acceptor = Arc::new(acceptor.build());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("https://{HOST}:{}", listener.local_addr()?.port());
        let issuer = issuer()?;
        fs::write(folder.join("issuer.pem"), issuer.0.to_pem()?)?;
        // One file for all to believe.
        fs::write(folder.join("roots.pem"), [fs::read(&own.ca)?, issuer.0.to_pem()?].concat())?;
        let changing = Mutex::new(Changing { days, ..Changing::default() });
        let state =
            Arc::new(State { base: base.clone(), issuer, validate_at, name: name.to_owned(), changing });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, state) = (Arc::clone(&acceptor), Arc::clone(&shared));
                tokio::spawn(async move {
                    let Ok(tls) = tokio_boring::accept(&acceptor, tcp).await else { return };
                    let service = service_fn(move |request| {
                        let state = Arc::clone(&state);
                        async move { Ok::<_, Infallible>(state.answer(request).await) }
                    });
                    http1::Builder::new().serve_connection(TokioIo::new(tls), service).await.ok();
                });
            }
        });
        Ok(Self { directory: format!("{base}/directory"), state })
    }

    /// How many certificates were issued, and nonces refused.
    pub(crate) fn counts(&self) -> (u32, u32) {
        let changing = self.state.changing();
        (changing.issued, changing.refused_nonces)
    }
}

fn issuer() -> Result<(X509, PKey<Private>)> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let mut name = boring::x509::X509Name::builder()?;
    name.append_entry_by_text("CN", "Test Issuer")?;
    let name = name.build();
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(&name)?;
    builder.set_pubkey(&key)?;
    let (from, until) = (Asn1Time::days_from_now(0)?, Asn1Time::days_from_now(365)?);
    builder.set_not_before(&from)?;
    builder.set_not_after(&until)?;
    let ca = boring::x509::extension::BasicConstraints::new().critical().ca().build()?;
    builder.append_extension(&ca)?;
    builder.sign(&key, MessageDigest::sha256())?;
    Ok((builder.build(), key))
}

struct Said {
    status: StatusCode,
    location: Option<String>,
    body: Vec<u8>,
}

impl State {
    fn changing(&self) -> MutexGuard<'_, Changing> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let said = self.serve(request).await.unwrap_or_else(|error| {
            let kind = if error.to_string() == "badNonce" { "badNonce" } else { "malformed" };
            let body = json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": format!("{error:#}") });
            Said { status: StatusCode::BAD_REQUEST, location: None, body: body.to_string().into_bytes() }
        });
        let nonce = {
            let mut changing = self.changing();
            changing.next += 1;
            let nonce = format!("nonce{}", changing.next);
            changing.nonces.insert(nonce.clone());
            nonce
        };
        let mut response = Response::builder().status(said.status).header("replay-nonce", nonce);
        if let Some(location) = said.location {
            response = response.header("location", location);
        }
        response.body(Full::new(said.body.into())).unwrap_or_default()
    }

    async fn serve(&self, request: Request<Incoming>) -> Result<Said> {
        let path = request.uri().path().to_owned();
        let ok = |body: Value| Said {
            status: StatusCode::OK,
            location: None,
            body: body.to_string().into_bytes(),
        };
        let at = |path: &str| format!("{}{path}", self.base);
        if path == "/directory" {
            return Ok(ok(
                json!({ "newNonce": at("/nonce"), "newAccount": at("/account"), "newOrder": at("/order") }),
            ));
        }
        if request.method() == Method::HEAD && path == "/nonce" {
            return Ok(ok(Value::Null));
        }
        ensure!(request.headers()["content-type"] == "application/jose+json", "content type");
        let body = request.into_body().collect().await?.to_bytes();
        let payload = self.verify(&body, &path)?;
        self.signed(&path, &payload).await
    }

    /// What a signed request gets.
    async fn signed(&self, path: &str, payload: &Value) -> Result<Said> {
        let at = |path: &str| format!("{}{path}", self.base);
        let ok = |body: Value| Said {
            status: StatusCode::OK,
            location: None,
            body: body.to_string().into_bytes(),
        };
        let created = |location: &str, body: Value| Said {
            status: StatusCode::CREATED,
            location: Some(at(location)),
            ..ok(body)
        };
        let validated = self.changing().validated.clone();
        let has_chain = self.changing().chain.is_some();
        match path {
            "/account" => {
                ensure!(payload["termsOfServiceAgreed"] == true, "terms");
                Ok(created("/account/1", json!({ "status": "valid" })))
            }
            "/order" => {
                let wanted = json!([{ "type": "dns", "value": self.name }]);
                ensure!(payload["identifiers"] == wanted, "identifiers {payload}");
                let mut changing = self.changing();
                (changing.validated, changing.chain) = (None, None);
                Ok(created("/order/1", self.order("pending")))
            }
            "/order/1" => Ok(ok(self.order(if has_chain { "valid" } else { "ready" }))),
            "/authorization/1" => Ok(ok(self.authorization(validated))),
            "/challenge/1" => {
                let outcome = self.validate().await.map_err(|error| format!("{error:#}"));
                self.changing().validated = Some(outcome);
                Ok(ok(json!({ "status": "processing" })))
            }
            "/finalize/1" => {
                ensure!(validated == Some(Ok(())), "not authorized");
                let request = BASE64URL_NOPAD.decode(payload["csr"].as_str().context("csr")?.as_bytes())?;
                let chain = self.issue(&request)?;
                let mut changing = self.changing();
                changing.chain = Some(chain);
                changing.issued += 1;
                Ok(ok(self.order("processing")))
            }
            "/certificate/1" => {
                let chain = self.changing().chain.clone().context("nothing was issued")?;
                Ok(Said { body: chain, ..ok(Value::Null) })
            }
            _ => anyhow::bail!("no such place: {path}"),
        }
    }

    fn authorization(&self, validated: Option<Result<(), String>>) -> Value {
        let at = |path: &str| format!("{}{path}", self.base);
        let (status, error) = match validated {
            None => ("pending", Value::Null),
            Some(Ok(())) => ("valid", Value::Null),
            Some(Err(why)) => {
                ("invalid", json!({ "type": "urn:ietf:params:acme:error:unauthorized", "detail": why }))
            }
        };
        let other = json!({ "type": "http-01", "url": at("/challenge/2"), "token": "other" });
        let challenge =
            json!({ "type": "tls-alpn-01", "url": at("/challenge/1"), "token": "to-ken_1", "error": error });
        json!({ "status": status, "challenges": [other, challenge] })
    }

    fn order(&self, status: &str) -> Value {
        json!({
            "status": status,
            "authorizations": [format!("{}/authorization/1", self.base)],
            "finalize": format!("{}/finalize/1", self.base),
            "certificate": format!("{}/certificate/1", self.base),
        })
    }

    /// The payload of a signed request, which must be right in everything.
    fn verify(&self, body: &[u8], path: &str) -> Result<Value> {
        let sent: Value = serde_json::from_slice(body)?;
        let part = |name: &str| sent[name].as_str().context("a part is missing");
        let decoded = |name: &str| -> Result<Vec<u8>> { Ok(BASE64URL_NOPAD.decode(part(name)?.as_bytes())?) };
        let head: Value = serde_json::from_slice(&decoded("protected")?)?;
        ensure!(head["alg"] == "ES256" && head["url"] == format!("{}{path}", self.base), "head {head}");
        let mut changing = self.changing();
        // The first order's nonce is refused, as a real authority's may be after a restart.
        let known = changing.nonces.remove(head["nonce"].as_str().context("nonce")?);
        if !known || (path == "/order" && changing.refused_nonces == 0) {
            changing.refused_nonces += 1;
            anyhow::bail!("badNonce");
        }
        if path == "/account" {
            let jwk = &head["jwk"];
            let coordinate = |name: &str| -> Result<BigNum> {
                Ok(BigNum::from_slice(
                    &BASE64URL_NOPAD.decode(jwk[name].as_str().context("jwk")?.as_bytes())?,
                )?)
            };
            let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
            let key =
                EcKey::from_public_key_affine_coordinates(&group, &*coordinate("x")?, &*coordinate("y")?)?;
            changing.account = Some(key);
            let text = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, jwk["x"], jwk["y"]);
            changing.thumbprint = BASE64URL_NOPAD.encode(&sha256(text.as_bytes()));
        } else {
            ensure!(
                head["kid"] == format!("{}/account/1", self.base) && head["jwk"].is_null(),
                "head {head}"
            );
        }
        let signature = decoded("signature")?;
        ensure!(signature.len() == 64, "signature of {} bytes", signature.len());
        let (r, s) = signature.split_at(32);
        let signature = EcdsaSig::from_private_components(BigNum::from_slice(r)?, BigNum::from_slice(s)?)?;
        let digest = sha256(format!("{}.{}", part("protected")?, part("payload")?).as_bytes());
        let key = changing.account.as_ref().context("no account")?;
        ensure!(signature.verify(&digest, key)?, "the signature is not the account's");
        let payload = decoded("payload")?;
        Ok(if payload.is_empty() { Value::Null } else { serde_json::from_slice(&payload)? })
    }

    /// Looks at the challenge's certificate (RFC 8737, section 3).
    async fn validate(&self) -> Result<()> {
        let mut connector = SslConnector::builder(SslMethod::tls())?;
        connector.set_verify(SslVerifyMode::NONE);
        connector.set_alpn_protos(b"\x0aacme-tls/1")?;
        let tcp = TcpStream::connect(self.validate_at).await?;
        let tls = tokio_boring::connect(connector.build().configure()?, &self.name, tcp).await;
        let tls = tls.map_err(|error| anyhow::anyhow!("no TLS with the host: {error}"))?;
        ensure!(tls.ssl().selected_alpn_protocol() == Some(b"acme-tls/1"), "another protocol was chosen");
        let certificate = tls.ssl().peer_certificate().context("no certificate")?;
        let names = certificate.subject_alt_names().context("no names")?;
        let names: Vec<_> = names.iter().map(|name| name.dnsname().unwrap_or_default().to_owned()).collect();
        ensure!(names == [self.name.clone()], "names {names:?}");
        let expected = sha256(format!("to-ken_1.{}", self.changing().thumbprint).as_bytes());
        let wanted = [IDENTIFIER, &expected].concat();
        let der = certificate.to_der()?;
        ensure!(
            der.windows(wanted.len()).any(|window| window == wanted),
            "the key authorization's hash is not there"
        );
        Ok(())
    }

    fn issue(&self, request: &[u8]) -> Result<Vec<u8>> {
        let request = X509Req::from_der(request)?;
        let key = request.public_key()?;
        ensure!(request.verify(&key)?, "the request is not signed by its key");
        let extensions: Stack<_> = request.extensions()?;
        ensure!(extensions.len() == 1, "{} extensions", extensions.len());
        let mut builder = X509::builder()?;
        builder.set_version(2)?;
        let serial = BigNum::from_u32(7)?.to_asn1_integer()?;
        builder.set_serial_number(&serial)?;
        builder.set_issuer_name(self.issuer.0.subject_name())?;
        builder.set_pubkey(&key)?;
        let days = self.changing().days;
        let (from, until) = (Asn1Time::days_from_now(0)?, Asn1Time::days_from_now(days)?);
        builder.set_not_before(&from)?;
        builder.set_not_after(&until)?;
        let names =
            SubjectAlternativeName::new().dns(&self.name).build(&builder.x509v3_context(None, None))?;
        builder.append_extension(&names)?;
        builder.sign(&self.issuer.1, MessageDigest::sha256())?;
        Ok([builder.build().to_pem()?, self.issuer.0.to_pem()?].concat())
    }
}

/// The same key with a certificate of the same name, issued by itself so many days ago, for so many more.
pub(crate) fn aged(pem: &[u8], since: i64, left: u32) -> Result<Vec<u8>> {
    let (key, old) = (PKey::private_key_from_pem(pem)?, X509::from_pem(pem)?);
    let names = old.subject_alt_names().context("names")?;
    let name = names.iter().find_map(|name| name.dnsname()).context("a name")?.to_owned();
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_pubkey(&key)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let from = Asn1Time::from_unix(i64::try_from(now.as_secs())? - since * 86_400)?;
    let until = Asn1Time::days_from_now(left)?;
    builder.set_not_before(&from)?;
    builder.set_not_after(&until)?;
    let names = SubjectAlternativeName::new().dns(&name).build(&builder.x509v3_context(None, None))?;
    builder.append_extension(&names)?;
    builder.sign(&key, MessageDigest::sha256())?;
    Ok([key.private_key_to_pem_pkcs8()?, builder.build().to_pem()?].concat())
}
