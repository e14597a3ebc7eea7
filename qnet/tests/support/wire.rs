//! A wire to a bridge that can go dead.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// It carries.
    Whole,
    /// What is on it stays unanswered, new connections too.
    Silent,
    /// Its connections are closed, and new ones at once.
    Cut,
}

/// A wire to `target`: where it begins, and how it can be changed.
pub async fn wire(target: SocketAddr) -> Result<(SocketAddr, watch::Sender<Wire>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let (sender, state) = watch::channel(Wire::Whole);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(carry(tcp, target, state.clone()));
        }
    });
    Ok((address, sender))
}

async fn carry(mut near: TcpStream, target: SocketAddr, mut state: watch::Receiver<Wire>) -> io::Result<()> {
    let begins = *state.borrow();
    let mut far = match begins {
        Wire::Whole => Some(TcpStream::connect(target).await?),
        Wire::Silent | Wire::Cut => None,
    };
    loop {
        let now = *state.borrow_and_update();
        match (now, far.as_mut()) {
            (Wire::Cut, _) => return Ok(()),
            (Wire::Whole, Some(far)) => tokio::select! {
                done = copy_bidirectional(&mut near, far) => return done.map(drop),
                _ = state.changed() => {}
            },
            // Who connected in silence hears nothing for good.
            (Wire::Silent, _) | (Wire::Whole, None) => {
                let _ = state.changed().await;
            }
        }
    }
}
