//! `qnet-bridge invite`, `revoke` and `invited`: who may use a bridge by invitation.
//!
//! The list holds names and public keys. A client's secret is made here, printed in its line, and kept nowhere: who loses the line
//! is revoked and invited again.

use std::{
    fs::{self, File},
    io,
    net::SocketAddr,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use qnet_transport::admission::{self, InvitedFileError};
use qnet_wire::{
    bridge_line::{BridgeLine, Cover, MAX_LEN},
    invitation::{ClientName, InvitedError, InvitedList},
    key::BridgeKey,
};

use crate::{
    files::{self, Owner, Written},
    line::{self, Fingerprints, TOR_DATA},
    settings::{DEFAULT_CONFIG, DEFAULT_INVITED, Settings},
};

/// For a new list: whom a bridge serves is nobody else's business.
const MODE: u32 = 0o600;

/// Invite a client to a bridge by invitation, and print the line for that client alone
#[derive(Args, Debug)]
pub(crate) struct Invite {
    /// What to call the client: 1 to 32 letters, digits and - _ . ; the name stays on this machine
    name: ClientName,
    #[command(flatten)]
    list: List,
    /// Where the client connects to, if it is not where the bridge listens
    #[arg(long, value_name = "ADDRESS:PORT")]
    address: Option<SocketAddr>,
    /// tor's data folder, for the fingerprint and for the lines of bridges that tor starts itself
    #[arg(long, value_name = "FOLDER", default_value = TOR_DATA)]
    tor_data: PathBuf,
    /// Print the line and nothing else
    #[arg(long)]
    plain: bool,
}

/// Take a client's invitation back; a bridge that runs ends the client's sessions within two seconds
#[derive(Args, Debug)]
pub(crate) struct Revoke {
    /// What the client is called in the list
    name: ClientName,
    #[command(flatten)]
    list: List,
}

/// Tell who is invited: the names in the list and the clients' public keys, in the order of their invitations
#[derive(Args, Debug)]
pub(crate) struct Invited {
    #[command(flatten)]
    list: List,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Where the list is.
#[derive(Args, Debug)]
struct List {
    /// The bridge's settings, which name the list
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// The list of invited clients, if it is not the one of the settings
    #[arg(long, value_name = "FILE")]
    invited: Option<PathBuf>,
}

impl List {
    fn path(&self, settings: &Settings) -> Result<PathBuf> {
        let path = self.invited.clone().or_else(|| settings.invited.clone()).with_context(|| {
            format!(
                "this bridge lets in whoever has its line: to let in invited clients alone, set invited = \
                 \"{DEFAULT_INVITED}\" in {}, invite somebody, and start the bridge anew (for a bridge that tor starts, give \
                 the file of its option invited= as --invited FILE)",
                self.config.display()
            )
        })?;
        std::path::absolute(&path).with_context(|| format!("where {} is", path.display()))
    }

    /// The settings, where there are any: a bridge that tor starts has none.
    fn settings(&self) -> Result<Option<Settings>> {
        if self.config.exists() || self.invited.is_none() {
            return Settings::read(&self.config).map(Some);
        }
        Ok(None)
    }
}

impl Invite {
    pub(crate) fn start(self) -> Result<()> {
        let settings = self.list.settings()?;
        let path = self.list.path(&settings.clone().unwrap_or_default())?;
        let fingerprints = Fingerprints::read(&self.tor_data)?;
        let mut lines = match settings {
            Some(settings) => line::plain(&settings.plan()?, fingerprints.as_ref(), self.address)?,
            None => line::tors(&self.tor_data, fingerprints.as_ref(), self.address).with_context(|| {
                format!("there is no {}, so tor's lines were looked for", self.list.config.display())
            })?,
        };
        lines.retain(|line| matches!(line.cover, Cover::Mirror(_)));
        ensure!(!lines.is_empty(), "a bridge behind a web server, with url=, invites nobody");
        let invitation = admission::generate()?;
        for line in &mut lines {
            line.invitation = Some(invitation.clone());
            ensure!(
                line.to_string().len() <= MAX_LEN,
                "the line would be longer than {MAX_LEN} bytes: give the bridge fewer or shorter sni names"
            );
        }
        let key = invitation.key().public();
        change(&path, true, |list| list.invite(self.name.clone(), key))?;
        crate::say(&text(&self.name, &lines, self.plain)?)
    }
}

impl Revoke {
    pub(crate) fn start(self) -> Result<()> {
        let settings = self.list.settings()?;
        let path = self.list.path(&settings.unwrap_or_default())?;
        change(&path, false, |list| list.revoke(&self.name).map(drop))?;
        crate::say(&format!(
            "{} is not invited any more; a bridge that runs ends the client's sessions within two seconds\n",
            self.name
        ))
    }
}

impl Invited {
    pub(crate) fn start(self) -> Result<()> {
        let settings = self.list.settings()?;
        let list = admission::read(&self.list.path(&settings.unwrap_or_default())?)?;
        crate::say(&if self.json { names_json(&list) } else { names(&list) })
    }
}

fn names(list: &InvitedList) -> String {
    let width = list.clients().map(|(name, _)| name.as_str().len()).max().unwrap_or(0);
    let mut text: String =
        list.clients().map(|(name, key)| format!("{:<width$}  {key}\n", name.as_str())).collect();
    if text.is_empty() {
        text.push_str("nobody is invited\n");
    }
    text
}

fn names_json(list: &InvitedList) -> String {
    let client = |(name, key): (&ClientName, &BridgeKey)| serde_json::json!({ "name": name.as_str(), "key": key.to_string() });
    format!("{:#}\n", serde_json::json!({ "clients": list.clients().map(client).collect::<Vec<_>>() }))
}

/// Makes a list on which nobody is, unless there is one, which must be whole.
pub(crate) fn begin(path: &Path) -> Result<Written> {
    match admission::read(path) {
        Ok(_) => Ok(Written::Unchanged(path.to_owned())),
        Err(InvitedFileError::Missing { .. }) => {
            change(path, true, |_| Ok(()))?;
            Ok(Written::New(path.to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}

fn text(name: &ClientName, lines: &[BridgeLine], plain: bool) -> Result<String> {
    let mut text = String::new();
    if !plain {
        text.push_str(&format!(
            "The line for {name} and for nobody else: the secret in it is kept nowhere, so give it away before it is gone.\n\n"
        ));
    }
    for line in lines {
        text.push_str(&format!("{line}\n"));
        if !plain {
            text.push('\n');
            text.push_str(&line::code(line)?);
        }
    }
    Ok(text)
}

/// Changes the list in one step, alone: another `invite` at the same time waits. `create`: one that is not there is empty.
fn change(
    path: &Path,
    create: bool,
    with: impl FnOnce(&mut InvitedList) -> Result<(), InvitedError>,
) -> Result<()> {
    let folder = path.parent().context("a file has a folder")?;
    let locked = File::open(folder).and_then(|folder| folder.lock().map(|()| folder));
    let _locked = locked.with_context(|| {
        format!("cannot open {}, the folder of the list of invited clients", folder.display())
    })?;
    let mut list = match admission::read(path) {
        Err(InvitedFileError::Missing { .. }) if create => InvitedList::default(),
        read => read?,
    };
    with(&mut list).with_context(|| format!("{} stays as it is", path.display()))?;
    let (owner, mode) =
        owner(path, folder).with_context(|| format!("cannot see whose {} is", folder.display()))?;
    files::place_for(path, list.to_file_text().as_bytes(), mode, Some(owner))
}

/// A list that is there keeps owner and mode; a new one is for whom its folder belongs to, which is the bridge's service.
fn owner(path: &Path, folder: &Path) -> io::Result<(Owner, u32)> {
    match fs::metadata(path) {
        Ok(list) => Ok((Owner { user: list.uid(), group: list.gid() }, list.permissions().mode() & 0o777)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = fs::metadata(folder)?;
            Ok((Owner { user: folder.uid(), group: folder.gid() }, MODE))
        }
        Err(error) => Err(error),
    }
}
