//! What a person asks for: from the text of a plan file to a `Plan` that is known to make sense.

mod accept;
mod accepting;
mod activity;
mod cases;
mod check;
mod close;
mod depth;
mod file;
mod given;
mod model;
mod problem;
mod route;
mod schema;
mod shapes;
mod stage;

#[cfg(test)]
mod tests;

pub use accept::Accept;
pub use activity::Activity;
pub use check::check;
pub use close::Close;
pub use file::PlanFile;
pub use model::{
    AnswerIs, Case, Clients, Connections, Expectation, Family, Labels, Load, Plan, Servers, Setup,
    SourcePorts,
};
pub use problem::PlanProblem;
pub use route::Route;
pub use schema::plan_schema;
pub use stage::Stage;
