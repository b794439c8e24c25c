//! The two listeners: the public one for SDKs, the admin one for operators. The only user of axum.

mod admin;
pub mod listener;
mod public;
mod readiness;
pub mod settings;
pub mod sink;

pub use admin::host;
pub use admin::order::{SwitchOrder, SwitchRefusal};
pub use admin::routes::serve_admin;
pub use admin::state::{Admin, View};
pub use listener::listen::Listeners;
pub use public::routes::serve_public;
pub use public::state::Public;
pub use readiness::Readiness;
