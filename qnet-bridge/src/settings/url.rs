//! The address of a bridge's websocket in a file of its own: whoever knows its path is let in.

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use qnet_wire::url::WebsocketUrl;

use crate::files;

/// Reads such a file, which has the address alone.
///
/// # Errors
/// It is not there, everybody may read it, or it has something else.
pub(crate) fn read(path: &Path) -> Result<WebsocketUrl> {
    let (text, metadata) = files::read_plain(path)
        .with_context(|| format!("cannot read {}, which url-file names; are you root?", path.display()))?;
    let mode = metadata.permissions().mode();
    ensure!(
        mode & 0o007 == 0,
        "everybody may read {0}, which has the websocket's secret path; run: chmod o= {0}",
        path.display()
    );
    let text = String::from_utf8_lossy(&text);
    text.trim().parse().with_context(|| format!("in {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_address_that_others_may_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        let said = |mode: u32, text: &str| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            read(&path).map_err(|error| format!("{error:#}"))
        };
        assert!(said(0o600, "").is_err_and(|error| error.contains(&path.display().to_string())));
        assert_eq!(said(0o600, "https://a.example/x7\n").unwrap().path(), "/x7");
        assert_eq!(said(0o640, "https://a.example/x7").unwrap().path(), "/x7");
        assert!(said(0o644, "https://a.example/x7").is_err_and(|error| error.contains("chmod o=")));
        // What is said of a wrong one does not tell the path.
        assert!(said(0o600, "http://a.example/x7").is_err_and(|error| !error.contains("x7")));
        fs::remove_file(&path).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("are you root?"));
    }
}
