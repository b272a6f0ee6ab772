"""What a check is given."""

import copy
import os


class Context:
    """One frontend over one link. `tag` makes names that no other combination uses."""

    def __init__(self, cluster, frontend, link, bulk):
        self.cluster, self.frontend, self.link, self.bulk = cluster, frontend, link, bulk
        self.kubectl = cluster.kubectl(frontend)
        self.api = cluster.apis[frontend]
        self.tag = f"{frontend}-{link}"
        self.where = f"{frontend}/{link}"

    def over_spdy(self):
        """The same with a kubectl that speaks SPDY."""
        other = copy.copy(self)
        other.kubectl, other.tag = self.kubectl.over_spdy(), f"{self.tag}-spdy"
        return other

    def scratch(self, name):
        """A path for a file of this combination."""
        return os.path.join(self.cluster.directory, f"{name}-{self.tag}")
