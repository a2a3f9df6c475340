//! Two ends of a socket in one process.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::thread;

use proptest::prelude::*;

use super::*;

fn pair() -> (Channel, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Channel::new(ours.into()), theirs)
}

fn short() -> impl Patience {
    Until::new(Duration::from_millis(50), |_| false)
}

#[test]
fn a_descriptor_comes_along() {
    let (a, b) = pair();
    let b = Channel::new(b.into());
    let file = File::open("/proc/self/maps").unwrap();
    a.send(&7_u32, &[b"ab", b"", b"c"], Some(file.as_fd()), &mut Forever).unwrap();
    a.send(&8_u32, &[], None, &mut Forever).unwrap();
    let first = b.receive::<u32>(100, 100, &mut short()).unwrap();
    assert_eq!((first.meta, &*first.bulk), (7, &b"abc"[..]));
    let descriptor = first.descriptor.unwrap();
    let link = std::fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd())).unwrap();
    assert!(link.ends_with("maps"));
    let second = b.receive::<u32>(100, 100, &mut short()).unwrap();
    assert_eq!((second.meta, second.bulk.len(), second.descriptor.is_none()), (8, 0, true));
}

#[test]
fn silence_ends_patience_and_closing_ends_at_once() {
    let (a, b) = pair();
    assert!(a.is_quiet());
    let result = a.receive::<u32>(100, 100, &mut short());
    assert!(matches!(result, Err(WireError::TimedOut { waited }) if waited >= Duration::from_millis(50)));
    // A full socket is silence too.
    let result = a.send(&0_u32, &[&vec![0; 8 << 20]], None, &mut short());
    assert!(matches!(result, Err(WireError::TimedOut { .. })));
    drop(b);
    assert!(!a.is_quiet());
    assert!(matches!(a.receive::<u32>(100, 100, &mut Forever), Err(WireError::Closed)));
    assert!(matches!(a.send(&0_u32, &[], None, &mut Forever), Err(WireError::Closed)));
}

#[test]
fn patience_is_extended_while_that_is_deserved() {
    let (a, _b) = pair();
    let start = Instant::now();
    let mut patience = Until::new(Duration::from_millis(20), |waited| waited < Duration::from_millis(300));
    assert!(a.receive::<u32>(100, 100, &mut patience).is_err());
    assert!(start.elapsed() >= Duration::from_millis(300));
}

proptest! {
    #[test]
    fn what_is_sent_is_received(
        meta in proptest::collection::vec(any::<u64>(), 0..2000),
        bulk in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..600),
    ) {
        let (a, b) = pair();
        let b = Channel::new(b.into());
        let expected = bulk.concat();
        let received = thread::scope(|scope| {
            scope.spawn(|| {
                let parts: Vec<&[u8]> = bulk.iter().map(Vec::as_slice).collect();
                a.send(&meta, &parts, None, &mut Forever).unwrap();
            });
            b.receive::<Vec<u64>>(MAX_META_BYTES, MAX_BULK_BYTES, &mut Forever).unwrap()
        });
        prop_assert_eq!(received.meta, meta);
        prop_assert_eq!(&*received.bulk, &expected[..]);
    }

    #[test]
    fn any_other_bytes_are_an_error(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        has_magic in any::<bool>(),
        sizes in any::<[u8; 2]>(),
    ) {
        if has_magic && bytes.len() >= 16 {
            bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
            bytes[4..16].copy_from_slice(&[sizes[0], 0, 0, 0, sizes[1], 0, 0, 0, 0, 0, 0, 0]);
        }
        let (a, mut b) = pair();
        b.write_all(&bytes).unwrap();
        drop(b);
        // It may be a message by chance; then it is no longer than what was sent.
        if let Ok(message) = a.receive::<Vec<String>>(1000, 1000, &mut Forever) {
            prop_assert!(message.bulk.len() < bytes.len());
        }
    }
}
