//! The bridge's identity key, in a file of its own.

use crate::seed::{SeedError, seed};
use qnet_wire::error::{Kind, Retry};
use qnet_wire::key::{IdentityKey, KeyFileError};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The file's name.
pub const FILE: &str = "qnet_identity";
/// Longest file read, in bytes. A whole one has fewer than 200.
const MAX_FILE: usize = 1_024;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("cannot read the identity key {}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// Others may read the file.
    #[error("the identity key {0} can be read by others; if nobody did, run: chmod 600 {0}", .path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
    },
    /// The file is not a key.
    #[error("{}: {error}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: KeyFileError,
    },
    /// There was none, and a new one cannot be written.
    #[error("cannot write the identity key {}: {error}; is the folder writable, and the disk not full?", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// No key can be made.
    #[error(transparent)]
    Seed(#[from] SeedError),
}

impl IdentityError {
    /// Who is at fault.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Read { .. } | Self::Write { .. } | Self::Seed(_) => Kind::Local,
            Self::Permissions { .. } => Kind::Misuse,
            Self::Content { error, .. } => error.kind(),
        }
    }

    /// Whether trying again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Read { .. } | Self::Write { .. } | Self::Permissions { .. } | Self::Seed(_) => Retry::Never,
            Self::Content { error, .. } => error.retry(),
        }
    }
}

/// Reads the key in `folder`, or makes one if there is none. What is there is never overwritten, damaged or not: a
/// bridge whose key changes loses its users.
///
/// # Errors
/// [`IdentityError`]
pub fn load_or_create(folder: &Path) -> Result<IdentityKey, IdentityError> {
    match load(folder)? {
        Some(key) => Ok(key),
        None => create(folder, folder.join(FILE)),
    }
}

/// Reads the key in `folder`, if there is one.
///
/// # Errors
/// [`IdentityError`]
pub fn load(folder: &Path) -> Result<Option<IdentityKey>, IdentityError> {
    let path = folder.join(FILE);
    match File::open(&path) {
        Ok(file) => read(file, path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(IdentityError::Read { path, error }),
    }
}

fn read(file: File, path: PathBuf) -> Result<IdentityKey, IdentityError> {
    let metadata = match file.metadata() {
        Ok(metadata) => metadata,
        Err(error) => return Err(IdentityError::Read { path, error }),
    };
    if readable_by_others(&metadata) {
        return Err(IdentityError::Permissions { path });
    }
    // Sized at once: a buffer that grows leaves copies of the secret behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_FILE));
    match file.take(MAX_FILE as u64).read_to_string(&mut text) {
        Ok(_) => IdentityKey::parse_file_text(&text).map_err(|error| IdentityError::Content { path, error }),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(IdentityError::Content { path, error: KeyFileError::NotAKey })
        }
        Err(error) => Err(IdentityError::Read { path, error }),
    }
}

/// Writes a new key beside, then links it to its name: the name never stands for half a file, and a link to a name
/// that exists fails.
fn create(folder: &Path, path: PathBuf) -> Result<IdentityKey, IdentityError> {
    let key = IdentityKey::generate(&mut ChaCha20Rng::from_seed(seed()?));
    let beside = folder.join(format!("{FILE}.{}.new", std::process::id()));
    let written = write_private(&beside, key.to_file_text().as_bytes())
        .and_then(|()| std::fs::hard_link(&beside, &path));
    let removed = std::fs::remove_file(&beside);
    match written.and(removed).and_then(|()| File::open(folder)?.sync_all()) {
        Ok(()) => Ok(key),
        // Another process was faster: its key is the one.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match File::open(&path) {
            Ok(file) => read(file, path),
            Err(error) => Err(IdentityError::Read { path, error }),
        },
        Err(error) => Err(IdentityError::Write { path, error }),
    }
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match std::fs::remove_file(path) {
        // Left by a crash of a process that had the same number.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = options.open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(unix)]
fn readable_by_others(metadata: &std::fs::Metadata) -> bool {
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0
}

#[cfg(not(unix))]
fn readable_by_others(_metadata: &std::fs::Metadata) -> bool {
    false
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let first = load_or_create(folder.path()).unwrap();
        let second = load_or_create(folder.path()).unwrap();
        assert!(first.public() == second.public());
        let mode = std::fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn what_is_there_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let key = load_or_create(folder.path()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[60] ^= 1;
        for damaged in [&b""[..], &whole[..40], b"\xff\xfe", &[b'x'; 5_000], &flipped] {
            std::fs::write(&path, damaged).unwrap();
            let result = load_or_create(folder.path());
            assert!(matches!(result, Err(IdentityError::Content { .. })), "{result:?}");
            assert_eq!(std::fs::read(&path).unwrap(), damaged);
        }
        std::fs::write(&path, &whole).unwrap();
        assert!(load_or_create(folder.path()).unwrap().public() == key.public());
    }

    #[test]
    fn others_must_not_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        load_or_create(folder.path()).unwrap();
        for mode in [0o640, 0o604, 0o660] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let result = load_or_create(folder.path());
            assert!(matches!(result, Err(IdentityError::Permissions { .. })), "{mode:o}");
        }
    }

    #[test]
    fn what_cannot_be_read_or_written() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        assert!(matches!(load_or_create(&missing), Err(IdentityError::Write { .. })));
        std::fs::create_dir(folder.path().join(FILE)).unwrap();
        let result = load_or_create(folder.path());
        // A folder's own permissions are refused before its content is.
        assert!(
            matches!(result, Err(IdentityError::Read { .. } | IdentityError::Permissions { .. })),
            "{result:?}"
        );
    }
}
