//! Users and groups, by number or by name. Names are looked up in `/etc/passwd` and `/etc/group`, which
//! images without a C library's databases lack.

use std::str::FromStr;

/// The owner of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
}

/// Users.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ids(pub(crate) Box<[u32]>);

impl FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        if group == Some("") {
            return Err("no group after the colon: use USER, USER:GROUP or :GROUP".to_owned());
        }
        let user = if user.is_empty() { None } else { Some(PASSWD.id(user)?) };
        Ok(Self { user, group: group.map(|name| GROUP.id(name)).transpose()? })
    }
}

impl FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ids = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        ids.map(|name| PASSWD.id(name)).collect::<Result<_, _>>().map(Self)
    }
}

/// A file of lines `name:password:number:…` (passwd(5), group(5)).
struct Database {
    path: &'static str,
    what: &'static str,
}

const PASSWD: Database = Database { path: "/etc/passwd", what: "user" };
const GROUP: Database = Database { path: "/etc/group", what: "group" };

impl Database {
    fn id(&self, text: &str) -> Result<u32, String> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            // The largest number stands for "unchanged" (chown(2)).
            let id = text.parse().ok().filter(|&id| id != u32::MAX);
            return id.ok_or_else(|| format!("{text} is no number of a {}", self.what));
        }
        let Self { path, what } = self;
        let file = std::fs::read_to_string(path)
            .map_err(|error| format!("{what} {text:?}: {path}: {error}; give its number"))?;
        find(&file, text).ok_or_else(|| format!("{what} {text:?} is not in {path}; give its number"))
    }
}

fn find(file: &str, name: &str) -> Option<u32> {
    let line = file.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_by_number_and_name() {
        let owner = |user, group| Ok(Owner { user, group });
        for (text, expected) in [
            ("", owner(None, None)),
            ("0", owner(Some(0), None)),
            ("2000:3000", owner(Some(2000), Some(3000))),
            (":3000", owner(None, Some(3000))),
            ("root", owner(Some(0), None)),
            ("root:root", owner(Some(0), Some(0))),
        ] {
            assert_eq!(text.parse::<Owner>(), expected, "{text}");
        }
        for (text, why) in [
            ("root:", "no group"),
            ("no such user", "give its number"),
            (":no-such-group", "group \"no-such-group\""),
            ("4294967295", "is no number"),
            ("1:2:3", "give its number"),
        ] {
            let error = text.parse::<Owner>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn users_in_a_list() {
        assert_eq!("".parse(), Ok(Ids::default()));
        assert_eq!("0, root,2000".parse(), Ok(Ids([0, 0, 2000].into())));
        assert!("0,-1".parse::<Ids>().is_err());
    }

    #[test]
    fn the_number_is_the_third_field() {
        let file = "root:x:0:0:root:/root:/bin/sh\nkube:x:2000:3000::/:\nbroken\nodd:x:y:1";
        assert_eq!((find(file, "kube"), find(file, "kub"), find(file, "odd")), (Some(2000), None, None));
    }
}
