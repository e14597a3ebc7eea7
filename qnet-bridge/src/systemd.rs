//! What a service manager is told, where one asks for it: systemd's `sd_notify(3)`, one datagram with variables in it.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::Path,
};

/// Users can be served.
pub(crate) fn ready() {
    notify("READY=1");
}

/// From now on the service is another process, which that one does not have to say itself.
pub(crate) fn main_process(pid: u32) {
    notify(&format!("MAINPID={pid}"));
}

fn notify(state: &str) {
    let Some(place) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(place.as_bytes(), state) {
        tracing::warn!("the service manager cannot be told {state}: {error}");
    }
}

fn send(place: &[u8], state: &str) -> io::Result<()> {
    let address = match place.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(Path::new(std::ffi::OsStr::from_bytes(place)))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}
