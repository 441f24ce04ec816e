# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Words the made-up records are built from, already escaped for use inside a JSON string."""

from __future__ import annotations

import json


def _inside(*values: str) -> tuple[str, ...]:
    return tuple(json.dumps(value, ensure_ascii=False)[1:-1] for value in values)


FIRST_NAMES = _inside(
    "Olivia", "José", "Zoë", "Łukasz", "Amélie", "Seán", "陽菜", "Noah", "Müge", "Γιώργος", "Fatima", "Björn",
    "Aoife", "Дмитрий", "नेहा", "Chloe",
)  # fmt: skip
LAST_NAMES = _inside(
    "O'Brien", 'Smith "Smithy"', "Nuñez", "Kowalska", "van der Berg", "山田", "Ågren", "Jones", "D\u2019Angelo",
    "Çelik", "Papadopoulos", "Иванова", "MacDonald", "Weiß", "Lee", "Taylor-Reed",
)  # fmt: skip
COMPANIES = _inside("Acme & Sons", "Čapek s.r.o.", "株式会社サンプル", 'The "Daily" Post', "Northwind <EU>", "Blå AB")
CITIES = _inside("London", "Zürich", "São Paulo", "Kraków", "München", "New York", "大阪市", "Malmö")
STREETS = _inside("High Street", "Rue de l'Église", "Straße des 17. Juni", "Main St \\ Unit", "Calle Ñuñoa", "ulica Długa")
PLANS = _inside(
    "Digital Monthly", "Digital Annual", "Print + Digital", "Café Club", "Student \u2013 50% off", "Family \U0001f46a",
    'The "Weekender"', "Ad-free",
)  # fmt: skip
HEADLINES = _inside(
    "<p>First month <strong>free</strong></p>", "<p>&pound;9.99 a month</p>", "<h2>Save 20%</h2>\n<p>Cancel anytime</p>",
    "", "<p>Für immer\u00a0dein</p>", '<a href="/terms">Terms</a>',
)  # fmt: skip
MESSAGES = _inside(
    "Order submitted", "Payment method changed by customer", "Address changed:\n12 High Street", "Order \u2014 retried",
)  # fmt: skip
COUNTRIES = ("GB", "US", "DE", "FR", "PL", "SE", "BR", "JP")
CURRENCIES = ("GBP", "USD", "EUR", "EUR", "PLN", "SEK", "BRL", "JPY")
PRICES = ("10", "9.99", "120", "0", "4.5", "59.90", "1200", "19.95")
SUBSCRIPTION_STATUSES = (
    "active", "active", "active", "active", "active", "active", "active", "cancelled",
    "cancelled", "active", "expired", "pending", "initial", "active", "Suspended", "active",
)  # fmt: skip
ORDER_STATUSES = ("active", "active", "active", "complete", "active", "pending-payment", "active", "active")
ORDER_TYPES = ("new", "new", "new", "new", "change_offer", "change_payment", "change_address", "cancel")
EVENT_TYPES = ("order.new", "order.new", "order.change_payment", "order.change_address")
EVENT_STATUSES = ("submitted", "submitted", "created", "submitted")
CARDS = ("Visa", "MasterCard", "AmericanExpress", "Visa")
SOURCES = ("shop", "mma", "admin", "partner")
