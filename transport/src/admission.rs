//! A bridge by invitation: its list of clients in a file, and what a change of the list changes.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

pub use qnet_proto::admission::Admission;
use qnet_proto::bridge::BridgeConfig as Core;
use qnet_wire::error::{Kind, Retry};
use qnet_wire::invitation::{Invitation, InvitedError, InvitedList, MAX_LIST};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::bridge::Sessions;
use crate::seed::{SeedError, seed};

/// How often the list's file is looked at. Whoever was revoked is out after this time at the latest.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why there is no list of invited clients.
#[derive(Debug, thiserror::Error)]
pub enum InvitedFileError {
    /// There is no such file.
    #[error("there is no list of invited clients {}; `qnet-bridge invite NAME` makes one", .path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read the list of invited clients {}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// Others may write to the file.
    #[error("others may write to the list of invited clients {0}; if nobody did, run: chmod 600 {0}", .path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
    },
    /// The file is too long for a list.
    #[error("{} is longer than a list of invited clients can be, {MAX_LIST} bytes", .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The file is no list, or a damaged one.
    #[error("in the list of invited clients {}, {error}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Where and what.
        error: InvitedError,
    },
}

impl InvitedFileError {
    /// Who is at fault.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Missing { .. } | Self::Permissions { .. } | Self::TooLong { .. } => Kind::Misuse,
            Self::Read { .. } => Kind::Local,
            Self::Content { error, .. } => error.kind(),
        }
    }

    /// Whether trying again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Missing { .. } | Self::Permissions { .. } | Self::TooLong { .. } | Self::Read { .. } => {
                Retry::Never
            }
            Self::Content { error, .. } => error.retry(),
        }
    }
}

/// A fresh invitation, from the system's generator.
///
/// # Errors
/// The system gives no random bytes.
pub fn generate() -> Result<Invitation, SeedError> {
    Ok(Invitation::generate(&mut ChaCha20Rng::from_seed(seed()?)))
}

/// Reads a list of invited clients.
///
/// # Errors
/// [`InvitedFileError`]
pub fn read(path: &Path) -> Result<InvitedList, InvitedFileError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => InvitedFileError::Missing { path: path.to_owned() },
        _ => InvitedFileError::Read { path: path.to_owned(), error },
    };
    let file = File::open(path).map_err(failed)?;
    if others_may_write(&file.metadata().map_err(failed)?) {
        return Err(InvitedFileError::Permissions { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    file.take(MAX_LIST as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > MAX_LIST {
        return Err(InvitedFileError::TooLong { path: path.to_owned() });
    }
    // What is no UTF-8 is damage that has a line, too.
    let text = String::from_utf8_lossy(&bytes);
    InvitedList::parse_file_text(&text)
        .map_err(|error| InvitedFileError::Content { path: path.to_owned(), error })
}

/// What a list means for a bridge.
#[must_use]
pub fn admission(list: &InvitedList) -> Admission {
    Admission::Invited(list.clients().map(|(_, key)| key.0).collect())
}

#[cfg(unix)]
fn others_may_write(metadata: &Metadata) -> bool {
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o022 != 0
}

#[cfg(not(unix))]
fn others_may_write(_metadata: &Metadata) -> bool {
    false
}

/// Changes who may use a mirror bridge that runs.
#[derive(Clone)]
pub struct Doorkeeper {
    pub(crate) core: Arc<Core>,
    pub(crate) sessions: Sessions,
}

impl Doorkeeper {
    /// Admits these clients from now on. The sessions of those who were admitted before and are not now end at once, and their next
    /// connection is a visitor's. How many sessions ended.
    pub fn admit(&self, admission: &Admission) -> usize {
        let Core { identity, door, .. } = &*self.core;
        let before = door.clients();
        door.set(identity, admission);
        // A websocket bridge may share the sessions, whose clients stand in no list.
        let known = |client: &[u8; 32]| before.as_ref().is_none_or(|before| before.contains(client));
        self.sessions.cut(|client| known(client) && !door.admits(client))
    }
}

/// Keeps a bridge's door as a file says, which is looked at every second.
pub struct Follower {
    path: PathBuf,
    door: Doorkeeper,
    known: Mutex<Known>,
}

struct Known {
    /// What the file was when it was last looked at, if it was; within, `None`: not there.
    seen: Option<Option<Stamp>>,
    list: InvitedList,
}

/// What tells a file from the one before: the time of its last change, its length, its number.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp(SystemTime, u64, u64);

impl Follower {
    /// Of a bridge that has begun with `list`, as it was read from `path`.
    #[must_use]
    pub fn new(path: PathBuf, list: InvitedList, door: Doorkeeper) -> Self {
        Self { path, door, known: Mutex::new(Known { seen: None, list }) }
    }

    /// Follows the file for as long as this runs.
    pub async fn follow(&self) {
        loop {
            self.look(false);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Reads the file now, and says so in the log.
    pub fn read_again(&self) {
        self.look(true);
    }

    /// Takes the file's list if it is another than before. A file that cannot be read changes nothing: its list stays.
    fn look(&self, always: bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.path);
        // Taken before the file is read: a change in between is seen the next time.
        if known.seen.replace(stamp) == Some(stamp) && !always {
            return;
        }
        match read(&self.path) {
            Ok(list) if list == known.list => {
                if always {
                    tracing::info!(
                        "the list of invited clients is as it was: {} clients",
                        list.clients().len()
                    );
                }
            }
            Ok(list) => {
                let ended = self.door.admit(&admission(&list));
                tracing::info!(
                    "the list of invited clients was read again: {} clients; {ended} sessions of others were ended",
                    list.clients().len()
                );
                known.list = list;
            }
            Err(error) => tracing::error!("who is invited stays as it was: {error}"),
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stamp(metadata.modified().ok()?, metadata.len(), number(&metadata)))
}

#[cfg(unix)]
fn number(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn number(_metadata: &Metadata) -> u64 {
    0
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use qnet_wire::key::IdentityKey;

    use super::*;

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_name_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("invited");
        let said = || read(&path).unwrap_err().to_string();
        assert!(said().contains("there is no list of invited clients") && said().contains("/invited"));
        let key = IdentityKey::from_bytes([5; 32]).public();
        let good = format!("qnet invited clients, version 1\nalice {key}\n");
        fs::write(&path, &good).unwrap();
        assert_eq!(read(&path).unwrap().clients().len(), 1);
        for (damage, words) in [
            (
                good.replace("alice ", "alice").into_bytes(),
                "/invited, line 2: expected a name, a space and a key",
            ),
            ([good.as_bytes(), b"\xff\xfe\n"].concat(), "/invited, line 3: expected"),
            (Vec::new(), "/invited, line 1: expected `qnet invited clients, version 1`"),
            (vec![b'x'; MAX_LIST + 1], "longer than"),
        ] {
            fs::write(&path, damage).unwrap();
            assert!(said().contains(words), "{}", said());
        }
        fs::write(&path, &good).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
        assert!(said().contains("chmod 600"), "{}", said());
    }
}
