//! Which programs listen at a port of this machine, by what the kernel tells of sockets and processes (proc(5)).

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    path::Path,
};

/// This program's name there.
pub(super) const BRIDGE: &str = "qnet-bridge";
/// The name of the first process, which holds sockets for services.
pub(super) const SYSTEMD: &str = "systemd";
/// A socket's state in the kernel's tables: it listens (`TCP_LISTEN`).
const LISTENS: &str = "0A";

/// The programs' names; none where this user may not see them.
pub(super) fn of(port: u16) -> Vec<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let sockets: HashSet<String> = tables.iter().flat_map(|table| listening(table, port)).collect();
    let mut programs = BTreeSet::new();
    // Processes have numbers there; the links `self` and `thread-self` lead to one of them once more.
    let numbered = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
    for process in fs::read_dir("/proc").into_iter().flatten().flatten().filter(numbered) {
        // Processes come and go meanwhile.
        let Ok(open) = fs::read_dir(process.path().join("fd")) else { continue };
        let mut links = open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        if links.any(|link| socket(&link).is_some_and(|number| sockets.contains(number))) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            // Anybody may give a process of his any name, one that a terminal obeys as well.
            programs.insert(name.trim().escape_debug().to_string());
        }
    }
    programs.into_iter().filter(|name| !name.is_empty()).collect()
}

/// The numbers of the sockets that listen at the port: the table's tenth column.
fn listening(table: &str, port: u16) -> Vec<String> {
    let end = format!(":{port:04X}");
    let rows = table.lines().skip(1).map(|row| row.split_ascii_whitespace().collect::<Vec<_>>());
    rows.filter_map(|row| match row.as_slice() {
        [_, local, _, state, _, _, _, _, _, number, ..] if local.ends_with(&end) && *state == LISTENS => {
            Some((*number).to_owned())
        }
        _ => None,
    })
    .collect()
}

/// The number of the socket that an open file is.
fn socket(link: &Path) -> Option<&str> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_is_found_and_a_connection_is_none() {
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(of(listener.local_addr().unwrap().port()), [name.trim()]);
        assert!(of(connection.local_addr().unwrap().port()).is_empty());
        let listener = TcpListener::bind("[::1]:0").unwrap();
        assert_eq!(of(listener.local_addr().unwrap().port()), [name.trim()]);
    }

    #[test]
    fn a_table_that_is_none_names_nobody() {
        for table in ["", "head", "head\nrow", "head\n0: 0100007F:01BB 00000000:0000 0A\n"] {
            assert!(listening(table, 443).is_empty(), "{table}");
        }
    }
}
