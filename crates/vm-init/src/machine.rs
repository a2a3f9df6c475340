//! What the first process of a machine has to do before and after everything else.

use std::{ffi::CStr, fs, io};

/// Mounts what the kernel side reads.
pub(crate) fn set_up() -> io::Result<()> {
    mount(c"proc", c"/proc", None)?;
    mount(c"sysfs", c"/sys", None)?;
    mount(c"devtmpfs", c"/dev", None)
}

/// Mounts a file system that has no device.
pub(crate) fn mount(kind: &CStr, at: &CStr, options: Option<&CStr>) -> io::Result<()> {
    let options = options.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: strings that end in NUL; no options are a null pointer.
    let result = unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, options.cast()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Unmounts it again.
pub(crate) fn unmount(at: &CStr) -> io::Result<()> {
    // SAFETY: a string that ends in NUL.
    let result = unsafe { libc::umount(at.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes a CPU away or brings it back.
pub(crate) fn set_online(cpu: u32, online: bool) -> io::Result<()> {
    fs::write(format!("/sys/devices/system/cpu/cpu{cpu}/online"), if online { "1" } else { "0" })
}

/// Switches the machine off.
pub(crate) fn power_off() -> ! {
    // SAFETY: no memory of ours is involved.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    // Not reached; a first process must not return.
    loop {
        std::thread::park();
    }
}
