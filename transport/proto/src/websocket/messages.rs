//! An open websocket: messages out, a stream of bytes in, and what either side owes the other.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng as _;

use super::frame::{self, Decoder, FrameError, Opcode, Said};

/// Either end, once the websocket is open.
#[derive(Debug)]
pub(super) struct Messages {
    decoder: Decoder,
    /// A client's masks, which must not be foreseeable (RFC 6455, section 5.3).
    masks: Option<ChaCha20Rng>,
    sent_close: bool,
    got_close: bool,
}

impl Messages {
    pub(super) fn client(masks: ChaCha20Rng) -> Self {
        Self { decoder: Decoder::new(false), masks: Some(masks), sent_close: false, got_close: false }
    }

    pub(super) fn server() -> Self {
        Self { decoder: Decoder::new(true), masks: None, sent_close: false, got_close: false }
    }

    /// Takes what came: messages' bytes to `payload`, answers to ping and close to `out`.
    pub(super) fn read(
        &mut self,
        bytes: &[u8],
        payload: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), FrameError> {
        match self.decoder.read(bytes, payload)? {
            None => {}
            Some(Said::Ping(content)) if !self.sent_close => self.write(Opcode::Pong, &content, out),
            Some(Said::Ping(_)) => {}
            Some(Said::Close(code)) => {
                self.got_close = true;
                if !std::mem::replace(&mut self.sent_close, true) {
                    let code = code.map(u16::to_be_bytes);
                    self.write(Opcode::Close, code.as_ref().map_or(&[], |code| &code[..]), out);
                }
            }
        }
        Ok(())
    }

    /// Appends one message; nothing after a close.
    pub(super) fn message(&mut self, message: &[u8], out: &mut Vec<u8>) {
        if !self.sent_close {
            self.write(Opcode::Binary, message, out);
        }
    }

    /// Appends a close without a code, as `WebSocket.close()` makes it.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.sent_close, true) {
            self.write(Opcode::Close, &[], out);
        }
    }

    /// The peer's close has come.
    pub(super) fn is_over(&self) -> bool {
        self.got_close
    }

    fn write(&mut self, opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
        let mask = self.masks.as_mut().map(|masks| masks.next_u32().to_ne_bytes());
        frame::write(opcode, payload, mask, out);
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng as _;

    use super::*;

    fn pair() -> (Messages, Messages) {
        (Messages::client(ChaCha20Rng::from_seed([3; 32])), Messages::server())
    }

    #[test]
    fn a_ping_and_a_close_are_answered_once() {
        let (mut client, mut server) = pair();
        let (mut up, mut down, mut got) = (Vec::new(), Vec::new(), Vec::new());
        server.message(b"data", &mut down);
        frame::write(Opcode::Ping, b"?", None, &mut down);
        frame::write(Opcode::Pong, b"unasked", None, &mut down);
        client.read(&down, &mut got, &mut up).unwrap();
        assert_eq!((got.as_slice(), up.len(), up[0]), (&b"data"[..], 7, 0x8a));
        up.clear();
        client.close(&mut up);
        client.close(&mut up);
        client.message(b"late", &mut up);
        assert_eq!(up.len(), 6);
        down.clear();
        server.read(&up, &mut got, &mut down).unwrap();
        assert_eq!(down, [0x88, 0]);
        up.clear();
        client.read(&down, &mut got, &mut up).unwrap();
        assert!(client.is_over() && server.is_over() && up.is_empty() && got == b"data");
    }

    #[test]
    fn a_close_comes_back_with_its_code() {
        let (mut client, mut server) = pair();
        let (mut up, mut down) = (Vec::new(), Vec::new());
        client.write(Opcode::Close, &1001_u16.to_be_bytes(), &mut up);
        server.read(&up, &mut Vec::new(), &mut down).unwrap();
        assert_eq!(down, [0x88, 2, 0x03, 0xe9]);
    }

    #[test]
    fn masks_differ_from_frame_to_frame() {
        let (mut client, _) = pair();
        let mut up = Vec::new();
        (0..4).for_each(|_| client.message(&[0; 4], &mut up));
        let masks: std::collections::HashSet<&[u8]> = up.chunks(10).map(|frame| &frame[2..6]).collect();
        assert_eq!(masks.len(), 4);
    }
}
