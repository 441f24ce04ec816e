# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Read and check the parameters of operators, sensors and triggers: each class declares its own, and one mechanism reads them.

A value may come out of a template as a text, out of native rendering or an XCom as a number, a list or a mapping, or be
written in the Dag: each gives the same value, or a `ParameterError` that names the parameter, the value and what would fit.
"""
