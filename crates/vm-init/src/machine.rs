//! What the first process of a machine has to do before and after everything else.

use std::{ffi::CStr, fs, io};

/// Mounts what the kernel side reads.
pub(crate) fn set_up() -> io::Result<()> {
    mount(c"proc", c"/proc")?;
    mount(c"sysfs", c"/sys")?;
    mount(c"devtmpfs", c"/dev")
}

fn mount(kind: &CStr, at: &CStr) -> io::Result<()> {
    // SAFETY: four strings that end in NUL, and no data.
    let result = unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
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
