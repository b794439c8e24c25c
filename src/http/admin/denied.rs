//! Why a form is not accepted.

use http::StatusCode;

/// Why a form is not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Denied {
    /// There is no session, or it has ended.
    #[error("You are not signed in, or your session has ended. Sign in, and do it again.")]
    SignedOut,
    /// The browser says that another site's page has sent the form.
    #[error(
        "This was sent from another site. Open the status page itself and do it there. If that is what you did, a proxy in between \
         must pass on the header Host as it came."
    )]
    OtherSite,
    /// The form token is not that of the session.
    #[error("This form belongs to another session, or to none. Go back to the status page and do it there.")]
    OtherForm,
    /// The body is no form, or not all of it came.
    #[error("This is no form of the status page.")]
    NoForm,
    /// The form is larger than any of ours.
    #[error("This form is larger than 8 KiB.")]
    TooLarge,
    /// The form did not come in time.
    #[error("This form took longer than 10 seconds to arrive. Send it again.")]
    TooSlow,
}

impl Denied {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::SignedOut | Self::OtherSite | Self::OtherForm => StatusCode::FORBIDDEN,
            Self::NoForm => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
        }
    }
}
