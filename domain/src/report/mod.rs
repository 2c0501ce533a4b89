//! Views of a run. A report holds no knowledge of its own: all of it is computed from the record.

mod compare;
mod model;
mod record;
mod shape;
#[cfg(test)]
mod tests;
mod timing;

pub use compare::{CaseDifference, Comparison, Difference, compare};
pub use model::{CaseReport, Cohort, Ends, Report, ScriptReport, report_schema};
pub use record::RunRecord;
pub use shape::{ActivityReport, ChurnReport, ShapeReport};
pub use timing::{AtOccupancy, ConnectReport, RampReport, StartReport};
