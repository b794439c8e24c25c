//! The author of a switch, for its history: the person at the terminal, else the user of this process.

use std::path::Path;

/// The user's name, with the terminal if there is one.
pub(super) fn author() -> String {
    let named = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = named("SUDO_USER").or_else(|| named("USER")).or_else(|| named("LOGNAME")).unwrap_or_else(own_name);
    let terminal = std::fs::read_link("/proc/self/fd/0").ok();
    let terminal = terminal.as_deref().and_then(|path| path.strip_prefix("/dev").ok());
    let is_terminal = |path: &&Path| path.starts_with("pts") || path.to_string_lossy().starts_with("tty");
    match terminal.filter(is_terminal) {
        Some(terminal) => format!("{user}@{}", terminal.display()),
        None => user,
    }
}

/// The name of this process's user: cron, systemd and containers set no variable.
fn own_name() -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_of(rustix::process::getuid().as_raw(), &passwd)
}

fn name_of(uid: u32, passwd: &str) -> String {
    let name = |line: &str| {
        let mut fields = line.split(':');
        let (name, own) = (fields.next()?, fields.nth(1)?);
        (!name.is_empty() && own.parse() == Ok(uid)).then(|| name.to_owned())
    };
    passwd.lines().find_map(name).unwrap_or_else(|| format!("uid {uid}"))
}

#[cfg(test)]
mod tests {
    use super::name_of;

    #[test]
    fn a_user_is_named_as_in_passwd_or_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nshop:x:1000:1000::/:/bin/sh\n";
        assert_eq!([0, 1000, 1001].map(|uid| name_of(uid, passwd)), ["root", "shop", "uid 1001"]);
    }
}
