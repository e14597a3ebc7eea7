//! An application that speaks HTTP/1.1 to its proxy.

use std::io;

use qnet_wire::target::{Answer, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{NEGOTIATION, Service, refuse};
use crate::http_head::{Asked, Status, parse};
use crate::pool::OpenError;

pub(super) async fn serve(service: &Service, mut tcp: TcpStream) -> io::Result<()> {
    let mut bytes = Vec::new();
    let asked = match timeout(NEGOTIATION, read_head(&mut tcp, &mut bytes)).await?? {
        Ok(asked) => asked,
        Err(status) => return refuse(tcp, &page(&status)).await,
    };
    let rest = bytes.split_off(asked.length);
    let mut far = match service.open(Some(&Request::Tcp(asked.target))).await {
        Ok(far) => far,
        Err(error) => return refuse(tcp, &page(&status_of(&error))).await,
    };
    match asked.head {
        Some(head) => far.stream().write_all(&head).await?,
        None => tcp.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await?,
    }
    far.stream().write_all(&rest).await?;
    service.carry(&mut tcp, &mut far).await;
    Ok(())
}

async fn read_head(tcp: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<Result<Asked, Status>> {
    loop {
        match parse(bytes) {
            Ok(Some(asked)) => return Ok(Ok(asked)),
            Ok(None) => {}
            Err(status) => return Ok(Err(status)),
        }
        if tcp.read_buf(bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn status_of(error: &OpenError) -> Status {
    let line = match error {
        OpenError::NoBridge(_) => "503 Service Unavailable",
        OpenError::Refused(Answer::NotAllowed) => "403 Forbidden",
        OpenError::Refused(Answer::TimedOut) => "504 Gateway Timeout",
        OpenError::Refused(Answer::TooManyStreams) => "503 Service Unavailable",
        OpenError::Refused(_) => "502 Bad Gateway",
    };
    Status(line, format!("QNet: {error}."))
}

fn page(Status(line, words): &Status) -> Vec<u8> {
    let length = words.len() + 1;
    format!(
        "HTTP/1.1 {line}\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{words}\n"
    )
    .into_bytes()
}
