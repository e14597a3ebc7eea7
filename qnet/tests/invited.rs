//! A bridge by invitation: the line with an invitation opens it, the line without does not, and the secret is shown nowhere.
#![allow(clippy::disallowed_methods, reason = "a user waits")]

mod support;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Result, ensure};
use qnet_tests::support::decoy::{Decoy, Options, Server};
use qnet_tests::support::isolate::isolated;
use qnet_tests::support::process::wait_for;
use qnet_tests::support::tunnel::runtime;
use qnet_transport::admission::Admission;
use qnet_wire::invitation::Invitation;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use support::exit::{Behind, Exit};
use support::{CONNECT_LIMIT, Proxy, curl};

const NAME: &str = "www.example.com";

#[test]
fn an_invited_users_line_opens_the_bridge_and_the_plain_one_does_not() -> Result<()> {
    isolated("an_invited_users_line_opens_the_bridge_and_the_plain_one_does_not", || {
        let runtime = runtime()?;
        let _inside = runtime.enter();
        let decoy = Decoy::start(Server::Nginx, Options::default())?;
        let invitation = Invitation::generate(&mut ChaCha20Rng::from_seed([1; 32]));
        let admission = Admission::Invited(vec![invitation.key().public().0]);
        let hosts = Behind::Exit(HashMap::from([(NAME, decoy.address())]));
        let exit = Exit::admitting(admission, &decoy, 1, hosts)?;
        let (ca, secret) = (&decoy.certificates().ca, invitation.expose_text());

        let folder = tempfile::tempdir()?;
        let config = folder.path().join("qnet.toml");
        fs::write(&config, format!("bridge = ['{} invite={}']\n", exit.line(), *secret))?;
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600))?;
        let proxy =
            Proxy::start_with(ca, &["--log-level", "debug", "--config", &config.display().to_string()])?;
        proxy.wait_for(r#""state":"connected""#)?;
        let url = format!("https://{NAME}:{}/", decoy.address().port());
        let way = format!("socks5h://{}", proxy.listen);
        let got = curl(&["--cacert", &ca.display().to_string(), "--proxy", &way, &url])?;
        ensure!(got.into_bytes() == decoy.file("index.html")?);
        let page = curl(&[&format!("http://{}/", proxy.status)])?;
        for shown in [proxy.log(), proxy.report()?, page] {
            ensure!(!shown.contains(secret.as_str()), "the secret is shown: {shown}");
        }

        let stranger = Proxy::start(ca, &[exit.line()], &[])?;
        wait_for("a stranger's failure", CONNECT_LIMIT, || {
            Ok(stranger.log().contains("did not prove itself").then_some(()))
        })?;
        ensure!(!stranger.report()?.contains(r#""state":"connected""#));
        Ok(())
    })
}
