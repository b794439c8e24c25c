//! Finds the project of a submission by project id and key.

use std::collections::HashMap;
use std::sync::Arc;

use crate::policy::routing::{Project, Routing};
use crate::protocol::auth::{AuthError, Credentials};
use crate::protocol::dsn::{Dsn, InvalidDsn};

/// Why a submission is refused for its project or key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    /// The request's authentication cannot be read: 401, or 400 for an unsupported version.
    #[error(transparent)]
    Unreadable(#[from] AuthError),
    /// Neither the request nor its envelope has credentials: 401.
    #[error("missing authentication: neither the request nor the envelope header names a key")]
    Missing,
    /// No project has this id and key: 403.
    #[error("project and public key do not belong to a known project")]
    Unknown,
    /// The project id in the path is no number: 400.
    #[error("the project id in the path is not a number")]
    ProjectId,
    /// The envelope's `dsn` is no DSN: 400.
    #[error("the dsn of the envelope header: {0}")]
    Dsn(#[from] InvalidDsn),
    /// The envelope's `dsn` names another project or key than the request: 400.
    #[error("the {0} of the envelope header's dsn differs from the request's")]
    Mismatch(&'static str),
}

/// The projects by id. Projects with the same id differ by their keys.
#[derive(Clone, Debug, Default)]
pub struct Keyring(HashMap<Box<str>, Vec<Arc<Project>>>);

impl Keyring {
    /// The keyring of a routing's projects.
    pub fn new(routing: &Routing) -> Self {
        let mut by_id: HashMap<Box<str>, Vec<Arc<Project>>> = HashMap::new();
        for project in &routing.projects {
            by_id.entry(project.id.clone()).or_default().push(Arc::clone(project));
        }
        Self(by_id)
    }

    /// The project with this id and key; the key alone decides without an id (legacy `/api/store/`).
    pub fn find(&self, id: Option<&str>, credentials: &Credentials) -> Result<Arc<Project>, KeyError> {
        let has_key = |project: &&Arc<Project>| project.public_key.is(&credentials.public_key);
        let found = match id {
            Some(id) if !is_project_id(id) => return Err(KeyError::ProjectId),
            Some(id) => self.0.get(id).into_iter().flatten().find(has_key),
            None => self.0.values().flatten().find(has_key),
        };
        found.map(Arc::clone).ok_or(KeyError::Unknown)
    }

    /// The present state of a project that was found earlier. A project that was removed or has another id now is returned unchanged.
    pub fn known_now(&self, project: Arc<Project>) -> Arc<Project> {
        let mut same = self.0.get(&project.id).into_iter().flatten();
        same.find(|own| own.name == project.name).cloned().unwrap_or(project)
    }

    /// Whether a project has this key.
    pub fn knows_key(&self, key: &str) -> bool {
        self.0.values().flatten().any(|project| project.public_key.is(key))
    }

    /// The project that an envelope's own `dsn` names. It must agree with `id`, the project id in the path.
    pub fn find_by_dsn(
        &self,
        id: Option<&str>,
        dsn: Option<Result<Dsn, InvalidDsn>>,
    ) -> Result<Arc<Project>, KeyError> {
        let dsn = dsn.ok_or(KeyError::Missing)??;
        match id {
            Some(id) if !is_project_id(id) => Err(KeyError::ProjectId),
            Some(id) if id != dsn.project() => Err(KeyError::Mismatch("project id")),
            _ => self.find(Some(dsn.project()), &Credentials { public_key: dsn.public_key().to_owned(), client: None }),
        }
    }
}

/// Checks that an envelope's `dsn`, if there is one, names the project that the request was authenticated for.
pub fn check_dsn(project: &Project, dsn: Option<Result<Dsn, InvalidDsn>>) -> Result<(), KeyError> {
    let Some(dsn) = dsn.transpose()? else { return Ok(()) };
    if dsn.project() != &*project.id {
        return Err(KeyError::Mismatch("project id"));
    }
    if !project.public_key.is(dsn.public_key()) {
        return Err(KeyError::Mismatch("public key"));
    }
    Ok(())
}

fn is_project_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 20 && id.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::routing::PublicKey;

    const KEY: &str = "9ec79c33ec9942ab8353589fcb2e04dc";

    fn keyring() -> Keyring {
        let project = Project {
            name: "shop".into(),
            id: "7".into(),
            public_key: PublicKey::new(KEY),
            dsns: [].into(),
            places: [].into(),
            primary: None,
            mirror: None,
        };
        Keyring::new(&Routing { projects: vec![Arc::new(project)], ..Routing::default() })
    }

    fn credentials(key: &str) -> Credentials {
        Credentials { public_key: key.into(), client: None }
    }

    #[test]
    fn id_and_key_must_match_and_the_spelling_of_the_key_does_not_matter() {
        let keyring = keyring();
        assert!(keyring.find(Some("7"), &credentials("9EC79C33-EC99-42AB-8353-589FCB2E04DC")).is_ok());
        assert!(keyring.find(None, &credentials(KEY)).is_ok());
        assert_eq!(keyring.find(Some("8"), &credentials(KEY)).unwrap_err(), KeyError::Unknown);
        assert_eq!(keyring.find(Some("7"), &credentials("other")).unwrap_err(), KeyError::Unknown);
        assert_eq!(keyring.find(Some("7x"), &credentials(KEY)).unwrap_err(), KeyError::ProjectId);
    }

    #[test]
    fn an_envelopes_own_dsn_must_agree_with_the_path() {
        let keyring = keyring();
        let dsn = |text: &str| Some(text.parse());
        let good = format!("http://{KEY}@localhost/7");
        assert!(keyring.find_by_dsn(Some("7"), dsn(&good)).is_ok());
        assert!(keyring.find_by_dsn(None, dsn(&good)).is_ok());
        assert_eq!(keyring.find_by_dsn(Some("8"), dsn(&good)).unwrap_err(), KeyError::Mismatch("project id"));
        assert_eq!(keyring.find_by_dsn(Some("7"), None).unwrap_err(), KeyError::Missing);
        assert_eq!(keyring.find_by_dsn(Some("7"), dsn("http://k@h/7")).unwrap_err(), KeyError::Unknown);
    }

    #[test]
    fn a_dsn_beside_the_requests_key_must_name_the_same_project_and_key() {
        let project = keyring().find(Some("7"), &credentials(KEY)).unwrap();
        assert_eq!(check_dsn(&project, None), Ok(()));
        assert_eq!(check_dsn(&project, Some(format!("http://{KEY}@elsewhere/7").parse())), Ok(()));
        let other = Some(format!("http://{KEY}@h/8").parse());
        assert_eq!(check_dsn(&project, other), Err(KeyError::Mismatch("project id")));
        assert_eq!(check_dsn(&project, Some("http://k@h/7".parse())), Err(KeyError::Mismatch("public key")));
    }
}
