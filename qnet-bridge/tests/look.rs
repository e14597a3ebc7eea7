//! What `init` looks at before it writes: the folder of a site, the port, where the name leads, whether there is a tor.
#![forbid(unsafe_code)]

mod support;

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

use anyhow::{Result, ensure};
use qnet_tests::support::{
    decoy::{Decoy, NAME, Options, Server},
    isolate::isolated,
    site,
};
use support::{mounted, name_leads_to, program, start};

const ADDRESS: &str = "192.0.2.7:443";

/// How `init` ended, what it said, and what it warned of.
struct Ended {
    good: bool,
    said: String,
    warned: String,
}

fn init(root: &Path, decoy: Option<&Decoy>, args: &[&str]) -> Result<Ended> {
    let mut command = program();
    command.args(["init", "--root"]).arg(root).args(args);
    if let Some(decoy) = decoy {
        command.args(["--sni", NAME, "--decoy", &decoy.address().to_string()]);
        command.env("SSL_CERT_FILE", &decoy.certificates().ca);
    }
    let output = command.output()?;
    let text = |bytes| String::from_utf8(bytes);
    Ok(Ended { good: output.status.success(), said: text(output.stdout)?, warned: text(output.stderr)? })
}

#[test]
fn a_site_that_the_service_could_not_serve_is_refused() -> Result<()> {
    isolated("a_site_that_the_service_could_not_serve_is_refused", || {
        let folder = tempfile::tempdir()?;
        let root = folder.path();
        name_leads_to("192.0.2.7", root)?;
        let site_flags = ["--domain", NAME, "--acme-terms-agreed", "--behind", "web", "--site"];
        let site_at = |place: &str, address: &str| {
            init(root, None, &[&site_flags[..], &[place, "--address", address]].concat())
        };
        let refused = |place: &str, address: &str, why: &str| {
            let ended = site_at(place, address)?;
            let words = ended.warned.contains(why) && ended.warned.contains("nothing was written");
            ensure!(!ended.good && words, "{place} {address}: {}", ended.warned);
            ensure!(!root.join("etc").exists(), "something was written");
            Ok(())
        };
        refused("/var/www/html", ADDRESS, "cannot read the site")?;
        fs::create_dir_all(root.join("var/www/html"))?;
        refused("/var/www/html", ADDRESS, "no index.html")?;
        site::write(&root.join("var/www/html"))?;
        refused("var/www/html", ADDRESS, "begins with a slash")?;
        refused("/var/www/html", "192.0.2.7:8443", "looks for the site at port 443")?;
        for hidden in ["/home/me/site", "/root/site", "/tmp/site", "/var/www/../../root/site"] {
            site::write(&root.join(hidden.replace("/var/www/../..", "").trim_start_matches('/')))?;
            refused(hidden, ADDRESS, "the service cannot see /")?;
        }
        symlink(root.join("home/me/site"), root.join("var/www/link"))?;
        refused("/var/www/link", ADDRESS, "the service cannot see /home")?;

        let page = root.join("var/www/html/tour.html");
        fs::set_permissions(&page, fs::Permissions::from_mode(0o640))?;
        let closed = site_at("/var/www/html", ADDRESS)?;
        let words =
            format!("may not read {}; run: chmod -R o+rX /var/www/html", page.canonicalize()?.display());
        ensure!(closed.good && closed.warned.contains(&words), "{}", closed.warned);
        fs::set_permissions(&page, fs::Permissions::from_mode(0o644))?;
        fs::set_permissions(root.join("var/www"), fs::Permissions::from_mode(0o750))?;
        let closed = site_at("/var/www/html", ADDRESS)?;
        ensure!(closed.good && closed.warned.contains("chmod o+x "), "{}", closed.warned);
        fs::set_permissions(root.join("var/www"), fs::Permissions::from_mode(0o755))?;
        let good = site_at("/var/www/html", ADDRESS)?;
        ensure!(good.good && good.warned.is_empty() && good.said.contains("unchanged"), "{}", good.warned);
        Ok(())
    })
}

#[test]
fn a_name_that_leads_elsewhere_and_a_tor_that_is_missing_are_told() -> Result<()> {
    isolated("a_name_that_leads_elsewhere_and_a_tor_that_is_missing_are_told", || {
        let decoy = Decoy::start(Server::Nginx, Options::default())?;
        let folder = tempfile::tempdir()?;
        name_leads_to("198.51.100.9", folder.path())?;
        let (own, elsewhere) = (folder.path().join("own"), folder.path().join("elsewhere"));
        site::write(&own.join("var/www/html"))?;
        let at = ["--address", ADDRESS, "--behind", "tor"];
        let flags = ["--site", "/var/www/html", "--domain", NAME, "--acme-terms-agreed"];
        for (root, decoy, flags) in [(&own, None, &flags[..]), (&elsewhere, Some(&decoy), &[])] {
            let first = init(root, decoy, &[&at, flags].concat())?;
            ensure!(
                first.good && first.warned.contains(&format!("{NAME} leads elsewhere")),
                "{}",
                first.warned
            );
            ensure!(first.warned.contains("apt install tor"), "{}", first.warned);
            fs::create_dir_all(root.join("usr/sbin"))?;
            fs::write(root.join("usr/sbin/tor"), "")?;
            let here = ["--address", "198.51.100.9:443", "--behind", "tor"];
            let second = init(root, decoy, &[&here, flags].concat())?;
            let told = ["leads", "apt install"].iter().any(|word| second.warned.contains(word));
            ensure!(second.good && !told, "{}", second.warned);
            let unchecked = init(root, decoy, &[&at, flags, &["--unchecked"]].concat())?;
            ensure!(unchecked.good && unchecked.warned.is_empty(), "{}", unchecked.warned);
        }
        Ok(())
    })
}

#[test]
fn a_port_that_another_program_has_is_an_error_and_one_that_the_bridge_has_is_none() -> Result<()> {
    let name = "a_port_that_another_program_has_is_an_error_and_one_that_the_bridge_has_is_none";
    isolated(name, || {
        let decoy = Decoy::start(Server::Nginx, Options::default())?;
        let folder = tempfile::tempdir()?;
        // A machine that may be written to: what of /etc can be read, and an empty /var/lib.
        let copied = Command::new("cp").args(["-r", "/etc"]).arg(folder.path()).output()?;
        ensure!(folder.path().join("etc/nsswitch.conf").exists(), "{copied:?}");
        fs::create_dir_all(folder.path().join("lib"))?;
        mounted(&folder.path().join("etc"), "/etc")?;
        mounted(&folder.path().join("lib"), "/var/lib")?;
        let flags = ["--address", "127.0.0.1:443", "--behind", "web"];
        let here = || init(Path::new("/"), Some(&decoy), &flags);

        let other = TcpListener::bind("127.0.0.1:443")?;
        let ended = here()?;
        let who = fs::read_to_string("/proc/self/comm")?;
        let words = format!("{} has port 443 already", who.trim());
        ensure!(!ended.good && ended.warned.contains(&words), "{words}: {}", ended.warned);
        ensure!(!Path::new("/etc/qnet-bridge").exists() && !Path::new("/var/lib/qnet-bridge").exists());
        drop(other);
        let ended = here()?;
        ensure!(ended.good && ended.said.contains("written"), "{}", ended.warned);
        let (_bridge, _) = start(Path::new("/etc/qnet-bridge"), &decoy.certificates().ca)?;
        let again = here()?;
        ensure!(again.good && !again.said.contains("written"), "{}{}", again.said, again.warned);
        Ok(())
    })
}
