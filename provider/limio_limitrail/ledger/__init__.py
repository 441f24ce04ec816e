# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What has been sent and what came of it, so that nothing is sent twice and nothing is forgotten. Knows neither API."""
