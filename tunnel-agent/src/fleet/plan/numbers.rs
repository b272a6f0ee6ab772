//! How many servers are held and wanted.

use std::collections::BTreeSet;

use super::{Plan, Standing};

impl Plan {
    /// Servers held, and how many there should be: as many as are said to be, or
    /// as the addresses lead to, whichever is more.
    pub(in crate::fleet) fn numbers(&self) -> (usize, usize) {
        let unresolved = self.entries.iter().filter(|entry| entry.is_unresolved());
        let expected = self.expected_behind_endpoints() + unresolved.count();
        (self.held.len(), expected.max(self.demand.count()))
    }

    /// Servers that the known addresses lead to, as far as one knows.
    fn expected_behind_endpoints(&self) -> usize {
        let mut servers = BTreeSet::new();
        let mut unknown = 0;
        for endpoint in self.endpoints.iter() {
            match (self.standing(endpoint), self.endpoints.leads(endpoint)) {
                (Standing::Gone | Standing::Doubtful, _) => {}
                (Standing::Holds | Standing::Alias | Standing::Missing, Some(id)) => {
                    servers.insert(id);
                }
                (Standing::Holds | Standing::Alias | Standing::Missing, None) => unknown += 1,
            }
        }
        servers.len() + unknown
    }
}
