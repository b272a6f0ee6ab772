//! Flags of frontends: their clients, beyond certificates.

use clap::Args;

use crate::clients::Name;
use crate::config::{Ids, Owner};

#[derive(Debug, Args)]
#[command(next_help_heading = "Clients of the frontends")]
pub(crate) struct ClientArgs {
    /// Mode of the file of --uds-name, in octal; 0770 if empty, as with Konnectivity. A
    /// process needs the right to write to connect.
    #[arg(long, value_name = "MODE", value_parser = mode, default_value = "")]
    pub(crate) uds_mode: Mode,

    /// Owner of the file of --uds-name, USER, USER:GROUP or :GROUP, by number or name. Another
    /// user needs CAP_CHOWN; a group, that this process is in it.
    #[arg(long, value_name = "OWNER", default_value = "")]
    pub(crate) uds_owner: Owner,

    /// Users whose processes may use --uds-name, by number or name, separated by commas; all
    /// that can connect if empty.
    #[arg(long, value_name = "LIST", default_value = "")]
    pub(crate) uds_allowed_uids: Ids,

    /// Clients that may use the frontend on TCP, by their certificate, separated by commas:
    /// cn:NAME, o:NAME, dns:NAME, ip:ADDRESS, spiffe://ID, or NAME for a common name, DNS name
    /// or address; a * at the end stands for any rest. All that --server-ca-cert admits if
    /// empty.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "")]
    pub(crate) frontend_allowed_names: Vec<Name>,
}

/// The mode of a file, if it is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mode(pub(crate) Option<u32>);

fn mode(text: &str) -> Result<Mode, String> {
    if text.is_empty() {
        return Ok(Mode(None));
    }
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o777 && digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Mode(Some(mode))),
        _ => Err("use an octal mode such as 0600 or 0660".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        for (text, expected) in
            [("", None), ("0600", Some(0o600)), ("660", Some(0o660)), ("0o770", Some(0o770))]
        {
            assert_eq!(mode(text), Ok(Mode(expected)), "{text}");
        }
        for text in ["0800", "rw-rw----", "4755", "-1", "+600", "0x1ff"] {
            assert!(mode(text).unwrap_err().contains("octal"), "{text}");
        }
    }
}
