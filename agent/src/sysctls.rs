//! Kernel settings: read, made for a trial, put back after it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use tuplelab_domain::sysctl::{Sysctl, Sysctls};

/// Where the kernel shows its settings: those of the calling thread's network namespace
/// (`proc_sys_lookup` in `fs/proc/proc_sysctl.c` looks at who asks).
const ROOT: &str = "/";

/// A setting that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("failed to write \"{value}\" to {path}: {source}; {}", remedy(source))]
pub struct SysctlError {
    /// The setting's file.
    pub path: String,
    /// The value that it was to have.
    pub value: String,
    /// What the kernel said.
    pub source: io::Error,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "start the agent with the right to write it (a lab's namespace, or `--sysctl` of the container), \
             or set it on the host before"
        }
        io::ErrorKind::NotFound => "this kernel does not have it: leave it out of the plan",
        _ => "the kernel refuses this value: see Documentation/networking/ip-sysctl.rst for its range",
    }
}

/// All settings that can be read, without the kernel's tabs and newlines.
pub fn read() -> Sysctls {
    Sysctl::ALL
        .into_iter()
        .filter_map(|sysctl| Some((sysctl, value_of(Path::new(ROOT), sysctl).ok()?)))
        .collect()
}

/// Makes the settings. Where one is refused, those made before it are put back.
///
/// A setting that already stands is not written, so that it needs no right. Some depend on others
/// (`ip_local_port_range` may not begin below `ip_unprivileged_port_start`, nor the other way
/// round: `net/ipv4/sysctl_net_ipv4.c`), so what is refused as invalid is tried again after the rest.
pub fn apply(sysctls: &Sysctls) -> Result<SettingGuard, SysctlError> {
    apply_below(ROOT.into(), sysctls)
}

/// Settings that were made, and what they were before. Dropping it puts them back.
#[derive(Debug)]
#[must_use = "dropping it puts the settings back"]
pub struct SettingGuard {
    root: PathBuf,
    /// In the order in which they were written; only those that were changed.
    before: Vec<(Sysctl, String)>,
}

impl SettingGuard {
    /// The old values of what was changed.
    pub fn before(&self) -> Sysctls {
        self.before.iter().cloned().collect()
    }

    /// Puts the settings back, all that can be; the error is of the first that could not.
    pub fn restore(mut self) -> Result<(), SysctlError> {
        self.put_back()
    }

    fn put_back(&mut self) -> Result<(), SysctlError> {
        let mut first = Ok(());
        // Backwards, each write leads to a state that has already been, and so is valid.
        while let Some((sysctl, value)) = self.before.pop() {
            if let Err(error) = write(&self.root, sysctl, &value) {
                first = first.and(Err(error));
            }
        }
        first
    }
}

impl Drop for SettingGuard {
    fn drop(&mut self) {
        if let Err(error) = self.put_back() {
            tracing::warn!("a kernel setting was not put back: {error}");
        }
    }
}

fn apply_below(root: PathBuf, sysctls: &Sysctls) -> Result<SettingGuard, SysctlError> {
    let mut guard = SettingGuard { root, before: Vec::new() };
    let mut waiting: Vec<(Sysctl, String)> =
        sysctls.iter().map(|(s, value)| (*s, as_kernel(*s, value))).collect();
    while !waiting.is_empty() {
        let mut refused = Vec::new();
        let mut error = None;
        let asked = waiting.len();
        for (sysctl, value) in waiting {
            let old = value_of(&guard.root, sysctl)
                .map_err(|source| failed(&guard.root, sysctl, &value, source))?;
            if old == value {
                continue;
            }
            match write(&guard.root, sysctl, &value) {
                Ok(()) => guard.before.push((sysctl, old)),
                Err(e) if e.source.kind() == io::ErrorKind::InvalidInput => {
                    error.get_or_insert(e);
                    refused.push((sysctl, value));
                }
                Err(e) => return Err(e),
            }
        }
        match error {
            Some(error) if refused.len() == asked => return Err(error),
            _ => waiting = refused,
        }
    }
    Ok(guard)
}

/// A plan's value as the kernel writes it: a range is two numbers there, and "20000-21999" here.
fn as_kernel(sysctl: Sysctl, value: &str) -> String {
    let value = if sysctl == Sysctl::IpLocalPortRange { value.replace('-', " ") } else { value.to_owned() };
    words(&value)
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn file(root: &Path, sysctl: Sysctl) -> PathBuf {
    root.join(sysctl.path().trim_start_matches('/'))
}

fn value_of(root: &Path, sysctl: Sysctl) -> io::Result<String> {
    fs::read_to_string(file(root, sysctl)).map(|text| words(&text))
}

fn failed(root: &Path, sysctl: Sysctl, value: &str, source: io::Error) -> SysctlError {
    SysctlError { path: file(root, sysctl).display().to_string(), value: value.to_owned(), source }
}

fn write(root: &Path, sysctl: Sysctl, value: &str) -> Result<(), SysctlError> {
    // With the newline always: writing nothing would leave ip_local_reserved_ports as it is.
    // Truncating means nothing to /proc, and spares the tests' plain files an old ending.
    OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(file(root, sysctl))
        .and_then(|mut file| file.write_all(format!("{value}\n").as_bytes()))
        .map_err(|source| failed(root, sysctl, value, source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::in_own_namespace;

    fn tree(values: &[(Sysctl, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (sysctl, value) in values {
            let path = file(root.path(), *sysctl);
            fs::create_dir_all(path.parent().expect("has one")).expect("made");
            fs::write(path, value).expect("written");
        }
        root
    }

    #[test]
    fn settings_are_made_as_the_kernel_writes_them_and_put_back_on_drop() {
        let root = tree(&[
            (Sysctl::IpLocalPortRange, "32768\t60999\n"),
            (Sysctl::IpLocalReservedPorts, "7000-7003\n"),
            (Sysctl::Somaxconn, "4096\n"),
        ]);
        let text = |sysctl| fs::read_to_string(file(root.path(), sysctl)).expect("there");
        let asked = Sysctls::from([
            (Sysctl::IpLocalPortRange, "20000-21999".to_owned()),
            (Sysctl::IpLocalReservedPorts, String::new()),
            (Sysctl::Somaxconn, "4096".to_owned()),
        ]);
        let guard = apply_below(root.path().into(), &asked).expect("made");
        assert_eq!(text(Sysctl::IpLocalPortRange), "20000 21999\n");
        assert_eq!(text(Sysctl::IpLocalReservedPorts), "\n", "clearing needs a newline");
        let before = [(Sysctl::IpLocalPortRange, "32768 60999"), (Sysctl::IpLocalReservedPorts, "7000-7003")];
        assert_eq!(guard.before(), before.map(|(sysctl, value)| (sysctl, value.to_owned())).into());
        drop(guard);
        assert_eq!(text(Sysctl::IpLocalPortRange), "32768 60999\n");
        assert_eq!(text(Sysctl::IpLocalReservedPorts), "7000-7003\n");
    }

    #[test]
    fn a_setting_that_is_not_there_is_refused_by_name_and_the_others_are_put_back() {
        let root = tree(&[(Sysctl::IpLocalPortRange, "32768 60999\n")]);
        let asked = Sysctls::from([
            (Sysctl::IpLocalPortRange, "1024 65535".to_owned()),
            (Sysctl::Somaxconn, "5".to_owned()),
        ]);
        let error = apply_below(root.path().into(), &asked).expect_err("refused").to_string();
        assert!(
            error.contains("core/somaxconn") && error.contains("\"5\"") && error.contains("leave it out"),
            "{error}"
        );
        assert_eq!(value_of(root.path(), Sysctl::IpLocalPortRange).expect("there"), "32768 60999");
    }

    #[test]
    fn the_real_kernel_takes_settings_that_depend_on_each_other_and_takes_them_back() {
        let name =
            "sysctls::tests::the_real_kernel_takes_settings_that_depend_on_each_other_and_takes_them_back";
        if !in_own_namespace(name, "true") {
            return;
        }
        let before = read();
        let asked = [
            (Sysctl::IpLocalPortRange, "1-65535"), // refused until the next but one is made
            (Sysctl::IpLocalReservedPorts, "7000-7003"),
            (Sysctl::IpUnprivilegedPortStart, "0"),
            (Sysctl::Somaxconn, "5"),
            (Sysctl::TcpSyncookies, "2"),
        ];
        let asked: Sysctls = asked.into_iter().map(|(sysctl, value)| (sysctl, value.to_owned())).collect();
        let guard = apply(&asked).expect("made");
        assert_eq!(read().get(&Sysctl::IpLocalPortRange).map(String::as_str), Some("1 65535"));
        let clear = apply(&[(Sysctl::IpLocalReservedPorts, String::new())].into()).expect("cleared");
        assert_eq!(read().get(&Sysctl::IpLocalReservedPorts).map(String::as_str), Some(""));
        clear.restore().expect("put back");
        assert_eq!(read().get(&Sysctl::IpLocalReservedPorts).map(String::as_str), Some("7000-7003"));
        guard.restore().expect("put back");
        assert_eq!(read(), before);

        let error = apply(&[(Sysctl::IpLocalPortRange, "0-65535".to_owned())].into())
            .expect_err("EINVAL")
            .to_string();
        assert!(error.contains("ip_local_port_range") && error.contains("0 65535"), "{error}");
        assert_eq!(read(), before);
    }
}
