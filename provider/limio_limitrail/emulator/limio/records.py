# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The four big kinds of record: subscriptions, customers, orders and events, written as JSON text for speed.

A renderer returns the JSON text of one record: all of it, or the summary that a list shows. ``bits`` are the 64 random
bits that decide its values.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from limio_limitrail.emulator.core.times import DAY_MS, date, iso

if TYPE_CHECKING:
    from collections.abc import Callable

    from limio_limitrail.emulator.limio.record_store import Links

    Renderer = Callable[[Links, str, int, int, int, int, int, bool], str]

# Sample values, already escaped for use inside a JSON string.


def _escaped(*values: str) -> tuple[str, ...]:
    return tuple(json.dumps(value, ensure_ascii=False)[1:-1] for value in values)


FIRST_NAMES = _escaped(
    "Olivia", "José", "Zoë", "Łukasz", "Amélie", "Seán", "陽菜", "Noah", "Müge", "Γιώργος", "Fatima", "Björn",
    "Aoife", "Дмитрий", "नेहा", "Chloe",
)  # fmt: skip
LAST_NAMES = _escaped(
    "O'Brien", 'Smith "Smithy"', "Nuñez", "Kowalska", "van der Berg", "山田", "Ågren", "Jones", "D\u2019Angelo",
    "Çelik", "Papadopoulos", "Иванова", "MacDonald", "Weiß", "Lee", "Taylor-Reed",
)  # fmt: skip
COMPANIES = _escaped("Acme & Sons", "Čapek s.r.o.", "株式会社サンプル", 'The "Daily" Post', "Northwind <EU>", "Blå AB")
CITIES = _escaped("London", "Zürich", "São Paulo", "Kraków", "München", "New York", "大阪市", "Malmö")
STREETS = _escaped("High Street", "Rue de l'Église", "Straße des 17. Juni", "Main St \\ Unit", "Calle Ñuñoa", "ulica Długa")
PLANS = _escaped(
    "Digital Monthly", "Digital Annual", "Print + Digital", "Café Club", "Student \u2013 50% off", "Family \U0001f46a",
    'The "Weekender"', "Ad-free",
)  # fmt: skip
HEADLINES = _escaped(
    "<p>First month <strong>free</strong></p>", "<p>&pound;9.99 a month</p>", "<h2>Save 20%</h2>\n<p>Cancel anytime</p>",
    "", "<p>Für immer\u00a0dein</p>", '<a href="/terms">Terms</a>',
)  # fmt: skip
MESSAGES = _escaped(
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


def subscription(links: Links, id_: str, position: int, bits: int, revision: int, created: int, updated: int, full: bool) -> str:
    """Return a subscription: every field of the documented sample, some of them missing now and then."""
    plan = (bits >> 20) & 7
    region = (bits >> 24) & 7
    # A revision moves the status on by one step, so that every change is visible.
    status = SUBSCRIPTION_STATUSES[((bits >> 28) + revision * 7) & 15]
    owner = links.owner(position)
    reference = f"REF{(bits >> 32) & 0xFFFFFFFF:010d}"
    stamp = iso(created)
    start = stamp[:10]
    end = '"' + date(created + 365 * DAY_MS) + '"' if bits & 0x70 else "null"
    order = links.link("orders", position)
    customer = links.link("customers", owner)
    offer = f"/offers2/{PLANS[plan]}"
    extra = f',"quantity":{1 + revision}' if revision else ""
    if bits & 0xF00:
        extra += f',"external_id":"ext-{bits & 0xFFFFFF:06x}"'
    head = (
        f'{{"id":"{id_}","name":"{reference}","reference":"{reference}","record_type":"subscription",'
        f'"service":"{links.service}","status":"{status}","start":"{start}","owner":"{links.link("identities", owner)}",'
        f'"customer":"{customer}","ref":"{order}/{position:08x}","mode":"production",'
        f'"created":"{stamp}","updated":"{iso(updated)}","data":{{"name":"{PLANS[plan]}","termStartDate":"{stamp}",'
        f'"termEndDate":{end},"price":{{"amount":{PRICES[plan]},"currency":"{CURRENCIES[region]}",'
        f'"summary":{{"headline":"{HEADLINES[plan % 6]}"}}}},"attributes":{{"autoRenew":{_flag(bits >> 36)}{extra}}},'
        f'"tracking":{{"offers":["{offer}"],"purchaseCountryCode":"{COUNTRIES[region]}",'
        f'"accountId":"A{bits & 0xFFFFFFFF:010d}","contactId":{_maybe(bits >> 40, "C", position)}}}'
    )
    if not full:
        return head + "}}"
    return (
        f'{head},"offer":{{"mode":"production","path":"{offer}","version":"{bits:016x}","data":{{"record_type":"offer",'
        f'"name":"{PLANS[plan]}","attributes":{{"display_name__limio":"{PLANS[plan]}","price__limio":[{{"name":"charge",'
        f'"label":"{HEADLINES[plan % 6]}","value":"{PRICES[plan]}","currencyCode":"{CURRENCIES[region]}",'
        f'"type":"recurring","trigger":"order_date","repeat_interval":1,"repeat_interval_type":"months"}}]}},'
        f'"productBundles":[{{"revenue_split":"100","product_path":"/products/{PLANS[plan]}","rate_plan":"monthly"}}]}}}},'
        f'"relatedOrder":"{order}","revision":{revision}}}}}'
    )


def customer(links: Links, id_: str, position: int, bits: int, revision: int, created: int, updated: int, full: bool) -> str:
    """Return a customer, with personal details; some have no email or no company."""
    first = FIRST_NAMES[(bits >> 20) & 15]
    last = LAST_NAMES[(bits >> 24) & 15]
    region = (bits >> 28) & 7
    email = f'"user{position}.{bits & 0xFFFF:04x}@example.com"' if bits & 0x1F0000000000 else "null"
    company = f',"companyName":"{COMPANIES[(bits >> 32) % 6]}"' if (bits >> 34) & 3 == 0 else ""
    held = ",".join(f'"{links.link("subscriptions", one)}"' for one in links.subscriptions_of(position)[:20])
    head = (
        f'{{"id":"{id_}","name":"{first} {last}","record_type":"customer","service":"{links.service}",'
        f'"status":"active","owner":"{links.link("identities", position)}","mode":"production",'
        f'"created":"{iso(created)}","updated":"{iso(updated)}","data":{{"customerDetails":{{"email":{email},'
        f'"firstName":"{first}","lastName":"{last}","phone":"+44 20 7946 {bits & 0x1FFF:04d}"{company}}},'
        f'"attributes":{{"newsletter":{_flag(bits >> 36)},"segment":"s{(bits >> 44) & 15}",'
        f'"visits":{revision + (bits >> 50 & 63)}}},'
        f'"billingDetails":{{"address1":"{1 + (bits >> 10 & 127)} {STREETS[(bits >> 38) % 6]}","city":"{CITIES[region]}",'
        f'"countryCode":"{COUNTRIES[region]}","postalCode":"{bits >> 48 & 0xFFFF:05d}","state":null}},"subscriptions":[{held}]'
    )
    if not full:
        return head + "}}"
    return (
        f'{head},"deliveryDetails":{{"address1":"{STREETS[(bits >> 41) % 6]}","city":"{CITIES[region]}",'
        f'"countryCode":"{COUNTRIES[region]}"}},"preferences":{{"language":"en","channels":["email","post"]}},'
        f'"revision":{revision}}}}}'
    )


def order(links: Links, id_: str, position: int, bits: int, revision: int, created: int, updated: int, full: bool) -> str:
    """Return an order: tracking but no price, as observed."""
    plan = (bits >> 20) & 7
    region = (bits >> 24) & 7
    owner = links.owner(position)
    last = LAST_NAMES[(bits >> 38) & 15]
    external = f'"ext-{bits & 0xFFFFFFFF:08x}"' if (bits >> 32) & 3 else "null"
    head = (
        f'{{"id":"{id_}","name":"{id_[6:18]}","order_reference":"{(bits >> 12) & 0xFFFFFFFF:010d}","record_type":"order",'
        f'"service":"{links.service}","status":"{ORDER_STATUSES[((bits >> 28) + revision * 3) & 7]}",'
        f'"order_type":"{ORDER_TYPES[(bits >> 34) & 7]}","owner":"{links.link("identities", owner)}",'
        f'"customer":"{links.link("customers", owner)}","mode":"production","external_id":{external},'
        f'"created":"{iso(created)}","updated":"{iso(updated)}","data":{{"source":"{SOURCES[(bits >> 42) & 3]}",'
        f'"country":"{COUNTRIES[region]}","orderDate":"{iso(created)}","orderItems":[{{"offer":{{"path":"/offers2/{PLANS[plan]}",'
        f'"version":"{bits:016x}"}},"quantity":{1 + (bits >> 46 & 1)}}}],"tracking":{{"offers":["/offers2/{PLANS[plan]}"],'
        f'"campaign":"/campaigns/c{bits >> 50 & 31}","tag":"/tags/{COUNTRIES[region].lower()}/default",'
        f'"purchaseCountryCode":"{COUNTRIES[region]}"}},"subscriptionReference":"{links.link("subscriptions", position)}"'
    )
    if not full:
        return head + "}}"
    return (
        f'{head},"customerDetails":{{"firstName":"{FIRST_NAMES[(bits >> 44) & 15]}","lastName":"{last}",'
        f'"email":"user{owner}@example.com"}},"billingDetails":{{"city":"{CITIES[region]}","countryCode":"{COUNTRIES[region]}"}},'
        f'"payment":{{"type":"zuora"}},"process_immediately":false,"revision":{revision}}}}}'
    )


def event(links: Links, id_: str, position: int, bits: int, revision: int, created: int, updated: int, full: bool) -> str:
    """Return an event of the timeline, which names its subscriptions inside ``data.event``."""
    name = EVENT_TYPES[(bits >> 20) & 3]
    subject = links.link("subscriptions", position)
    order_id = links.link("orders", position)
    head = (
        f'{{"id":"{id_}","name":"{name}","record_type":"event","service":"{links.service}",'
        f'"status":"{EVENT_STATUSES[(bits >> 24) & 3]}","mode":"production","created":"{iso(created)}",'
        f'"updated":"{iso(updated)}","data":{{"type":"{name}","message":"{MESSAGES[(bits >> 28) & 3]}",'
        f'"event":{{"order":"{order_id}","subscriptions":[{{"id":"{subject}","name":"REF{bits >> 32:010d}"}}],'
        f'"source":"{SOURCES[(bits >> 34) & 3]}","customer":"{links.link("customers", links.owner(position))}",'
        f'"changes":[{{"field":"status","from":null,"to":"active","at":"{iso(created)}"}},'
        f'{{"field":"price","from":{PRICES[bits >> 40 & 7]},"to":{PRICES[bits >> 43 & 7]},"at":"{iso(updated)}"}}]}}'
    )
    if not full:
        return head + "}}"
    return f'{head},"additionalInfo":{{"ip":"203.0.113.{bits & 255}","userAgent":"Mozilla/5.0"}},"revision":{revision}}}}}'


def _flag(bits: int) -> str:
    return "true" if bits & 1 else "false"


def _maybe(bits: int, letter: str, number: int) -> str:
    return f'"{letter}{number:08d}"' if bits & 7 else "null"
