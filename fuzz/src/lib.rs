//! Fuzz targets: for each parser of strangers' bytes, a function that takes any input and panics
//! if the parser breaks one of its promises.
//!
//! `fuzz/libfuzzer` runs them under libFuzzer. `fuzz/tests` runs them on `fuzz/corpus`, and on
//! mutations of it, with the ordinary tests.

#![warn(missing_docs)]

mod frames;
mod messages;
mod texts;

/// A target: its name, which is its corpus' folder, and the function.
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// All targets.
pub const ALL: [FuzzTarget; 11] = [
    ("authority", frames::authority),
    ("certificate", texts::certificate),
    ("connect", texts::connect),
    ("control", messages::control),
    ("deframe", frames::deframe),
    ("dial", messages::dial),
    ("flags", texts::flags),
    ("identifiers", texts::identifiers),
    ("packet", messages::packet),
    ("policy", texts::policy),
    ("token", texts::token),
];

/// Runs the target of this name.
///
/// # Panics
/// When a promise is broken, or there is no such target.
pub fn run(name: &str, input: &[u8]) {
    let target = ALL.iter().find(|(each, _)| *each == name);
    let Some((_, target)) = target else { panic!("no fuzz target {name:?}") };
    target(input);
}
