//! The tasks: a module per subcommand, with its arguments, its run and its report.

pub(crate) mod agents;
pub(crate) mod churn;
pub(crate) mod compare;
pub(crate) mod flood;
pub(crate) mod matrix;
pub(crate) mod roll;
pub(crate) mod run;
pub(crate) mod scale;
pub(crate) mod scorecard;
pub(crate) mod siege;
pub(crate) mod stall;
pub(crate) mod storm;
pub(crate) mod target;
