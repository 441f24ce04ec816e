# Licensed under the Apache License, Version 2.0. See the LICENSE file.
