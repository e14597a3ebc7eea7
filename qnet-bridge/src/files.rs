//! Files that are written whole or not at all, and never over what somebody else wrote.

use std::{
    fmt, fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::OFlags;

/// For settings that hold no secret.
const MODE: u32 = 0o644;
/// For what holds one.
const SECRET_MODE: u32 = 0o600;
/// What is left of a mode where others may do nothing.
const NOT_OTHERS: u32 = 0o770;

/// Bytes of a small file that somebody else may have written.
const MAX_PLAIN: u64 = 1 << 16;

/// A file that is to be there.
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    /// It is for whom its folder belongs to alone.
    pub(crate) secret: bool,
}

impl File {
    fn mode(&self) -> u32 {
        if self.secret { SECRET_MODE } else { MODE }
    }
}

/// What was done about a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    New(PathBuf),
    /// And where the old one is now.
    Replaced(PathBuf, PathBuf),
    Changed(PathBuf),
    Unchanged(PathBuf),
}

impl Written {
    /// It is not as it was before.
    pub(crate) fn changed(&self) -> bool {
        !matches!(self, Self::Unchanged(_))
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New(path) => write!(f, "written    {}", path.display()),
            Self::Replaced(path, old) => {
                write!(f, "replaced   {} (the old one is {})", path.display(), old.display())
            }
            Self::Changed(path) => write!(f, "changed    {}", path.display()),
            Self::Unchanged(path) => write!(f, "unchanged  {}", path.display()),
        }
    }
}

/// Whether all files may be written: none is there with another text, or `replace` allows it.
pub(crate) fn check<'a>(files: impl IntoIterator<Item = &'a File>, replace: bool) -> Result<()> {
    for file in files {
        let File { path, text, .. } = file;
        match read(file) {
            Ok((there, _)) if there != text.as_bytes() && !replace => bail!(
                "{} is there and says something else; nothing was written. Move it away, or let --replace keep it beside as {}.old",
                path.display(),
                path.display()
            ),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
    Ok(())
}

/// Writes a file that [`check`] allowed; what it replaces is kept beside, and who may read it stays as it is, but for a secret,
/// which is closed.
pub(crate) fn write(file: &File) -> Result<Written> {
    let (path, text) = (&file.path, file.text.as_bytes());
    let Ok((there, metadata)) = read(file) else {
        let folder = path.parent().context("a file has a folder")?;
        // A folder that is made here is for who makes it.
        let owner = fs::metadata(folder).ok().filter(|_| file.secret);
        place_for(path, text, file.mode(), owner.as_ref().map(Owner::of))?;
        return Ok(Written::New(path.clone()));
    };
    let (mode, owner) = (metadata.mode() & 0o777, Owner::of(&metadata));
    let closed = if file.secret { mode & SECRET_MODE } else { mode };
    if there == text {
        if closed == mode {
            return Ok(Written::Unchanged(path.clone()));
        }
        place_for(path, text, closed, Some(owner))?;
        return Ok(Written::Changed(path.clone()));
    }
    let old = unused(path);
    // It may hold what is a secret now.
    place_for(&old, &there, mode & NOT_OTHERS, Some(owner))?;
    place_for(path, text, closed, Some(owner))?;
    Ok(Written::Replaced(path.clone(), old))
}

/// What is in a file, and whose it is.
fn read(file: &File) -> io::Result<(Vec<u8>, fs::Metadata)> {
    if file.secret {
        return read_plain(&file.path);
    }
    let mut there = fs::File::open(&file.path)?;
    let mut content = Vec::new();
    there.read_to_end(&mut content)?;
    Ok((content, there.metadata()?))
}

/// The same of one in a folder that is not root's: a link from there leads to what is not meant, and a pipe to a wait without end.
pub(crate) fn read_plain(path: &Path) -> io::Result<(Vec<u8>, fs::Metadata)> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("this is no plain file"));
    }
    let mut content = Vec::new();
    file.take(MAX_PLAIN).read_to_end(&mut content)?;
    Ok((content, metadata))
}

/// A name beside `path` for what it holds now: `.old`, or with a number where earlier ones are kept.
fn unused(path: &Path) -> PathBuf {
    let (mut name, mut number) = (beside(path, "old"), 1_u32);
    // A link that leads nowhere is somebody's as well.
    while fs::symlink_metadata(&name).is_ok() {
        number += 1;
        name = beside(path, &format!("old.{number}"));
    }
    name
}

/// Adds `line` at the end of a file, unless it has it; who may read it stays as it is.
pub(crate) fn add_line(path: &Path, line: &str) -> Result<Written> {
    let (mut text, mode, owner) = match fs::read_to_string(path) {
        Ok(text) => {
            let metadata = fs::metadata(path)?;
            (text, metadata.mode() & 0o777, Some(Owner::of(&metadata)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (String::new(), MODE, None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    if text.lines().any(|there| there.trim() == line) {
        return Ok(Written::Unchanged(path.to_owned()));
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(line);
    text.push('\n');
    place_for(path, text.as_bytes(), mode, owner)?;
    Ok(Written::Changed(path.to_owned()))
}

/// A folder for secrets; one that is there must be closed to others.
pub(crate) fn private_folder(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the folder {}; are you root?", path.display()))?;
    let mode = fs::metadata(path)?.permissions().mode();
    ensure!(mode & 0o022 == 0, "others may write to {0}; run: chmod 700 {0}", path.display());
    Ok(())
}

/// Puts a whole file in its place in one step: a crash leaves the old one or the new one.
pub(crate) fn place(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    place_for(path, content, mode, None)
}

/// Whom a file belongs to.
#[derive(Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) user: u32,
    pub(crate) group: u32,
}

impl Owner {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { user: metadata.uid(), group: metadata.gid() }
    }
}

/// The same for a file that belongs to somebody else than who runs this.
pub(crate) fn place_for(path: &Path, content: &[u8], mode: u32, owner: Option<Owner>) -> Result<()> {
    let folder = path.parent().context("a file has a folder")?;
    let beside = beside(path, "new");
    let work = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        match fs::remove_file(&beside) {
            // Left by a crash.
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(content)?;
        // Not what the umask made of it.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        if let Some(Owner { user, group }) = owner {
            fchown(&file, Some(user), Some(group))?;
        }
        file.sync_all()?;
        fs::rename(&beside, path)?;
        fs::File::open(folder)?.sync_all()
    };
    work().with_context(|| {
        format!("cannot write {}; are you root, and is there room on the disk?", path.display())
    })
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(end);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_kept_unless_it_may_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let file = |text: &str| File { path: path.clone(), text: text.to_owned(), secret: false };
        assert_eq!(write(&file("one")).unwrap(), Written::New(path.clone()));
        assert_eq!(write(&file("one")).unwrap(), Written::Unchanged(path.clone()));
        assert!(check([&file("one")], false).is_ok());
        let refused = check([&file("two")], false).unwrap_err().to_string();
        assert!(refused.contains("says something else") && refused.contains("a/b"), "{refused}");
        assert!(check([&file("two")], true).is_ok());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        for (text, name) in [("two", "a/b.old"), ("three", "a/b.old.2"), ("four", "a/b.old.3")] {
            let before = fs::read_to_string(&path).unwrap();
            let old = folder.path().join(name);
            assert_eq!(write(&file(text)).unwrap(), Written::Replaced(path.clone(), old.clone()));
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::read_to_string(&old).unwrap(), before);
            for path in [&path, &old] {
                assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o640, "{path:?}");
            }
        }
        assert_eq!(fs::read_dir(folder.path().join("a")).unwrap().count(), 4, "nothing else is left");
    }

    #[test]
    fn what_is_secret_is_for_the_folders_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let file = |text: &str| File { path: path.clone(), text: text.to_owned(), secret: true };
        assert_eq!(write(&file("one")).unwrap(), Written::New(path.clone()));
        assert_eq!(mode(&path), 0o600);
        assert_eq!(write(&file("one")).unwrap(), Written::Unchanged(path.clone()));
        // One that an older version wrote is closed.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(write(&file("one")).unwrap(), Written::Changed(path.clone()));
        assert_eq!(mode(&path), 0o600);
        let old = folder.path().join("url.old");
        assert_eq!(write(&file("two")).unwrap(), Written::Replaced(path.clone(), old.clone()));
        assert_eq!((mode(&path), mode(&old)), (0o600, 0o600));
        // What it replaces may have held the secret when it was none.
        let file = |text: &str| File { secret: false, ..file(text) };
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(
            write(&file("three")).unwrap(),
            Written::Replaced(path.clone(), folder.path().join("url.old.2"))
        );
        assert_eq!((mode(&path), mode(&folder.path().join("url.old.2"))), (0o644, 0o640));
    }

    #[test]
    fn a_secret_is_no_link_and_no_pipe() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        let (elsewhere, file) = (folder.path().join("else"), |text: &str| File {
            path: path.clone(),
            text: text.to_owned(),
            secret: true,
        });
        fs::write(&elsewhere, "not meant").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(check([&file("one")], true).is_err() && read_plain(&path).is_err());
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(check([&file("one")], true).is_err() && read_plain(&path).is_err());
        fs::remove_file(&path).unwrap();
        assert_eq!(write(&file("one")).unwrap(), Written::New(path.clone()));
        assert_eq!(read_plain(&path).unwrap().0, b"one");
    }

    #[test]
    fn a_line_is_added_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("torrc");
        fs::write(&path, "Log notice stdout").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(add_line(&path, "%include x").unwrap(), Written::Changed(path.clone()));
        assert_eq!(add_line(&path, "%include x").unwrap(), Written::Unchanged(path.clone()));
        assert_eq!(fs::read_to_string(&path).unwrap(), "Log notice stdout\n%include x\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        // Only root can give a file away.
        if std::os::unix::fs::chown(&path, Some(1), Some(2)).is_ok() {
            assert_eq!(add_line(&path, "%include y").unwrap(), Written::Changed(path.clone()));
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o777), (1, 2, 0o640));
        }
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        private_folder(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(private_folder(&path).unwrap_err().to_string().contains("chmod 700"));
    }
}
