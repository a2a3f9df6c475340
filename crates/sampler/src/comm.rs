//! A task's short name.

use std::fmt;

use sampler_abi::COMM_BYTES;

/// A task's name as the kernel keeps it: up to 15 bytes of anything, then NULs.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Comm([u8; COMM_BYTES]);

impl Comm {
    /// From bytes up to the first NUL; what is too long is cut.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let mut comm = [0; COMM_BYTES];
        let name = bytes.split(|&b| b == 0).next().unwrap_or_default();
        for (to, from) in comm.iter_mut().take(COMM_BYTES - 1).zip(name) {
            *to = *from;
        }
        Self(comm)
    }

    /// The name without the NULs.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.split(|&b| b == 0).next().unwrap_or_default()
    }

    /// The name, lossily decoded; empty where the task has none.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_after_the_first_nul_do_not_count() {
        assert_eq!(Comm::from_bytes(b"a\0b"), Comm::from_bytes(b"a"));
        assert_eq!(Comm::from_bytes(b"0123456789abcdefgh").bytes(), b"0123456789abcde");
        assert_eq!(Comm::from_bytes(b"\xff\n").text(), "\u{fffd}\n");
        assert_eq!(Comm::default().text(), "");
    }
}
