//! Bytes that are wiped when they are not needed any more.
//!
//! **In / Out**: bytes of snapshots, which hold secrets of their processes. Wiping is a memset that the compiler may
//! not leave out; `Vec`'s own wiping goes byte by byte, which costs more than unwinding does.

use std::ops::Deref;

use zeroize::Zeroize as _;

/// Wipes a buffer, what is behind its length too.
pub(crate) fn wipe(bytes: &mut Vec<u8>) {
    bytes.spare_capacity_mut().zeroize();
    bytes.as_mut_slice().zeroize();
}

/// Bytes that are wiped when dropped, and piece by piece before.
pub(crate) struct Secret(Vec<u8>);

impl Secret {
    /// So many zeroes, to be overwritten in place.
    pub(crate) fn zeroes(bytes: usize) -> Self {
        Self(vec![0; bytes])
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// Wipes everything now.
    pub(crate) fn wipe(&mut self) {
        wipe(&mut self.0);
    }
}

impl Deref for Secret {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.wipe();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_behind_the_length_either() {
        let mut bytes = vec![7; 100];
        bytes.truncate(10);
        wipe(&mut bytes);
        assert_eq!(bytes, [0; 10]);
        assert_eq!(bytes.capacity(), 100);
        // SAFETY: initialised above, once with sevens and then with zeroes.
        unsafe { bytes.set_len(100) };
        assert_eq!(bytes, [0; 100]);
    }
}
