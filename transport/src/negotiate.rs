//! A conversation before a stream begins, as a program has it at a port of its own: a codec without I/O says what to answer and when it
//! knows what is asked for.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Most bytes read at once: more than any message of such a conversation, SOCKS5's login of 513 the longest of them.
const CHUNK: usize = 1_024;

/// Gives `on_bytes` what arrives and sends what that appends, until it comes to something, which is returned once all is sent. There is
/// no limit of time, and of bytes only what `on_bytes` sets.
///
/// # Errors
/// The stream's; [`io::ErrorKind::UnexpectedEof`] where it ends before.
pub async fn negotiate<S, T>(
    stream: &mut S,
    mut on_bytes: impl FnMut(&[u8], &mut Vec<u8>) -> Option<T>,
) -> io::Result<T>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut buffer, mut out) = ([0; CHUNK], Vec::new());
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let outcome = on_bytes(buffer.get(..count).unwrap_or_default(), &mut out);
        stream.write_all(&out).await?;
        out.clear();
        if let Some(outcome) = outcome {
            return Ok(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every letter with itself, and has what it wants with the full stop.
    fn echo(heard: &mut Vec<u8>) -> impl FnMut(&[u8], &mut Vec<u8>) -> Option<usize> + '_ {
        |bytes, out| {
            heard.extend(bytes);
            out.extend(bytes);
            bytes.ends_with(b".").then_some(heard.len())
        }
    }

    #[tokio::test]
    async fn what_is_said_is_answered_and_the_last_words_are_sent() {
        let (mut near, mut far) = tokio::io::duplex(64);
        let other = tokio::spawn(async move {
            let mut answer = [0; 3];
            for part in [b"one", b"tw."] {
                far.write_all(part).await.unwrap();
                far.read_exact(&mut answer).await.unwrap();
                assert_eq!(&answer, part);
            }
            far
        });
        let mut heard = Vec::new();
        assert_eq!(negotiate(&mut near, echo(&mut heard)).await.unwrap(), 6);
        assert_eq!(heard, b"onetw.");
        drop(other.await.unwrap());
        let error = negotiate(&mut near, echo(&mut heard)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
