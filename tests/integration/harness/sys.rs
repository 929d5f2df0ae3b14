//! The few system calls that the standard library does not have: signals, limits, dying with the parent.
#![allow(unsafe_code, reason = "five plain system calls, each with its SAFETY note")]

use std::process::Command;

/// Makes the child die when the thread that starts it ends, so that an aborted test leaves no server behind.
pub(crate) fn die_with_parent(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt;
        // SAFETY: prctl(PR_SET_PDEATHSIG) is async-signal-safe and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

/// Sends `signal` to the process `pid`, which one of our `Child`s still owns.
pub(crate) fn send_signal(pid: u32, signal: libc::c_int) {
    let pid = libc::pid_t::try_from(pid).unwrap();
    // SAFETY: kill(2) with a process id that a Child of ours holds unreaped; no memory is involved.
    let outcome = unsafe { libc::kill(pid, signal) };
    assert_eq!(
        outcome,
        0,
        "kill({pid}, {signal}): {}",
        std::io::Error::last_os_error()
    );
}

/// The user that the tests run as.
pub(crate) fn user() -> u32 {
    // SAFETY: geteuid(2) takes nothing and always succeeds.
    unsafe { libc::geteuid() }
}

/// Raises the soft limit of open files to the hard one and answers it.
pub(crate) fn raise_open_files() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls get a valid pointer to a rlimit that lives across them.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
    limit.rlim_cur
}

/// What can still be written below a folder; 0 where there is none.
pub(crate) fn free_bytes(folder: &std::path::Path) -> u64 {
    use std::os::unix::ffi::OsStrExt as _;
    let name = std::ffi::CString::new(folder.as_os_str().as_bytes()).unwrap();
    // SAFETY: all of it is numbers, for which zero is a value.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a string that ends in NUL, and a pointer to a statvfs; both live across the call.
    if unsafe { libc::statvfs(name.as_ptr(), &raw mut found) } != 0 {
        return 0;
    }
    found.f_bavail as u64 * found.f_frsize as u64
}

/// Resident memory of a process in bytes (Linux; 0 elsewhere, where the tests that ask cannot judge).
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
        return 0;
    };
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap_or("0 kB");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}
