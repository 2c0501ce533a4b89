//! The process's descriptors: how many there may be, how many there are, and none left.

use super::refusal::Refusal;
use super::sockets::Held;
use super::{MOST, options};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tuplelab_domain::script::{Answer, Options, Protocol};

fn refused(call: &'static str) -> impl Fn(Errno) -> Refusal {
    move |errno| Refusal { call, errno }
}

/// The soft limit on descriptors: numbers below it may be given out.
pub(super) fn soft_limit() -> Result<u64, Refusal> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE).map_err(refused("getrlimit"))?.0)
}

/// Sets the soft limit. The hard one stays, or rises with it: with CAP_SYS_RESOURCE, and never above
/// fs.nr_open; else EPERM (`do_prlimit` in `kernel/sys.c`).
pub(super) fn limit(count: u64) -> Result<Answer, Answer> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(refused("getrlimit"))?;
    setrlimit(Resource::RLIMIT_NOFILE, count, hard.max(count))
        .map_err(|errno| Answer::from(refused("setrlimit")(errno)).detail("hard", hard))?;
    Ok(Answer::of("ok").value(count).detail("hard", hard.max(count)))
}

/// Descriptors of the calling thread's table whose number is below `limit`.
pub(super) fn open_below(limit: u64) -> Result<u64, Refusal> {
    let folder = match std::fs::read_dir("/proc/thread-self/fd") {
        Ok(folder) => folder,
        // No number below the soft limit is free (`alloc_fd` in `fs/file.c`): all are taken.
        Err(error) if error.raw_os_error() == Some(libc::EMFILE) => return Ok(limit.min(soft_limit()?)),
        Err(error) => return Err(Refusal::of("opendir")(error)),
    };
    let numbers = folder.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok());
    // The folder's own is among them, and gone by now.
    Ok((numbers.filter(|number| *number < limit).count() as u64).saturating_sub(1))
}

/// Opens sockets until the kernel refuses. With EMFILE the value and detail `open` make up `files`.
pub(super) fn fill(group: &mut Vec<Held>) -> Result<Answer, Answer> {
    let files = soft_limit()?;
    let open = open_below(files)?;
    let before = group.len();
    let mut answer = Answer::of("FULL");
    while group.len() < MOST {
        match options::socket(Protocol::Tcp, &Options::default(), None) {
            Ok(held) => group.push(held),
            Err(refusal) => {
                answer = refusal.into();
                break;
            }
        }
    }
    Ok(answer.value((group.len() - before) as u64).detail("files", files).detail("open", open))
}
