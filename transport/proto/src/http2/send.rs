//! What the peer lets us send in DATA frames (RFC 9113, section 5.2).

/// Windows before any SETTINGS or WINDOW_UPDATE (RFC 9113, section 6.9.2).
const DEFAULT_WINDOW: i64 = 65_535;
/// The largest window (RFC 9113, section 6.9.1).
const MAX_WINDOW: i64 = 0x7fff_ffff;

/// The connection's window and that of the one stream that has a body.
#[derive(Debug)]
pub(crate) struct SendWindows {
    connection: i64,
    /// What a new stream's is.
    initial: i64,
    stream: Option<(u32, i64)>,
}

impl Default for SendWindows {
    fn default() -> Self {
        Self { connection: DEFAULT_WINDOW, initial: DEFAULT_WINDOW, stream: None }
    }
}

impl SendWindows {
    /// The stream that has a body from here on.
    pub(crate) fn open(&mut self, stream: u32) {
        self.stream = Some((stream, self.initial));
    }

    /// WINDOW_UPDATE; None where it makes a window too large (RFC 9113, section 6.9.1). One for another stream means nothing.
    pub(crate) fn grow(&mut self, stream: u32, increment: u32) -> Option<()> {
        let window = match &mut self.stream {
            _ if stream == 0 => &mut self.connection,
            Some((id, window)) if *id == stream => window,
            _ => return Some(()),
        };
        *window += i64::from(increment);
        (*window <= MAX_WINDOW).then_some(())
    }

    /// SETTINGS_INITIAL_WINDOW_SIZE, which moves an open stream's window too, below zero perhaps (section 6.9.2).
    pub(crate) fn set_initial(&mut self, size: u32) -> Option<()> {
        let size = i64::from(size);
        if size > MAX_WINDOW {
            return None;
        }
        let change = size - std::mem::replace(&mut self.initial, size);
        if let Some((_, window)) = &mut self.stream {
            *window += change;
            return (*window <= MAX_WINDOW).then_some(());
        }
        Some(())
    }

    /// Takes up to `wanted` bytes of both windows.
    pub(crate) fn take(&mut self, wanted: usize) -> usize {
        let Some((_, window)) = &mut self.stream else { return 0 };
        let room = usize::try_from(self.connection.min(*window)).unwrap_or(0);
        let taken = wanted.min(room);
        let bytes = i64::try_from(taken).unwrap_or(MAX_WINDOW);
        self.connection -= bytes;
        *window -= bytes;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_windows_bound_what_goes() {
        let mut windows = SendWindows::default();
        assert_eq!(windows.take(1), 0, "no stream has a body");
        windows.set_initial(100).unwrap();
        windows.open(5);
        assert_eq!((windows.take(60), windows.take(60)), (60, 40));
        windows.grow(7, 50).unwrap();
        assert_eq!(windows.take(1), 0);
        windows.grow(5, 70_000).unwrap();
        assert_eq!((windows.take(100_000), windows.take(1)), (65_435, 0));
        windows.grow(0, 10).unwrap();
        assert_eq!(windows.take(100), 10);
    }

    #[test]
    fn a_smaller_setting_takes_credit_back() {
        let mut windows = SendWindows::default();
        windows.open(5);
        assert_eq!(windows.take(60_000), 60_000);
        windows.set_initial(10).unwrap();
        assert_eq!(windows.take(1), 0);
        windows.grow(0, 60_000).unwrap();
        windows.grow(5, 59_990).unwrap();
        assert_eq!(windows.take(1), 0);
        windows.grow(5, 3).unwrap();
        assert_eq!(windows.take(9), 3);
    }

    #[test]
    fn windows_that_are_too_large_are_refused() {
        let mut windows = SendWindows::default();
        windows.open(5);
        assert_eq!(windows.set_initial(0x8000_0000), None);
        assert_eq!(windows.grow(0, 0x7fff_ffff), None);
        windows.grow(5, 0x7fff_0000).unwrap();
        assert_eq!(windows.set_initial(0x7fff_ffff), None);
    }
}
