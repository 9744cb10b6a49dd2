"""A gallery of models as strangers write them, each with its exact posterior; ``calls`` puts each through the whole API."""
