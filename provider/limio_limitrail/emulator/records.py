# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The four big kinds: subscriptions, customers, orders and events, one function each.

A renderer gives the JSON text of one record: all of it, or the summary that a list shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from limio_limitrail.emulator import words as w
from limio_limitrail.emulator.times import DAY_MS, date, iso

if TYPE_CHECKING:
    from collections.abc import Callable


class Links(Protocol):
    """What a renderer asks of its tenant: the service it renders for, and the ids of other records."""

    service: str

    def link(self, kind: str, position: int) -> str:
        """The id of the record of a kind that a subscription (by position) belongs with."""
        ...

    def owner(self, subscription: int) -> int:
        """The position of the customer who holds a subscription."""
        ...

    def held(self, customer: int) -> range:
        """The positions of a customer's subscriptions."""
        ...


if TYPE_CHECKING:
    Renderer = Callable[[Links, str, int, int, int, int, int, bool], str]


def subscription(links: Links, id_: str, position: int, draw: int, revision: int, created: int, updated: int, full: bool) -> str:
    """A subscription; every field of the documented sample, some of them missing now and then."""
    plan = (draw >> 20) & 7
    place = (draw >> 24) & 7
    # A revision moves the status on by one step, so that every change is a change one can see.
    status = w.SUBSCRIPTION_STATUSES[((draw >> 28) + revision * 7) & 15]
    owner = links.owner(position)
    reference = f"REF{(draw >> 32) & 0xFFFFFFFF:010d}"
    stamp = iso(created)
    start = stamp[:10]
    end = '"' + date(created + 365 * DAY_MS) + '"' if draw & 0x70 else "null"
    order = links.link("orders", position)
    customer = links.link("customers", owner)
    offer = f"/offers2/{w.PLANS[plan]}"
    extra = f',"quantity":{1 + revision}' if revision else ""
    if draw & 0xF00:
        extra += f',"external_id":"ext-{draw & 0xFFFFFF:06x}"'
    head = (
        f'{{"id":"{id_}","name":"{reference}","reference":"{reference}","record_type":"subscription",'
        f'"service":"{links.service}","status":"{status}","start":"{start}","owner":"{links.link("identities", owner)}",'
        f'"customer":"{customer}","ref":"{order}/{position:08x}","mode":"production",'
        f'"created":"{stamp}","updated":"{iso(updated)}","data":{{"name":"{w.PLANS[plan]}","termStartDate":"{stamp}",'
        f'"termEndDate":{end},"price":{{"amount":{w.PRICES[plan]},"currency":"{w.CURRENCIES[place]}",'
        f'"summary":{{"headline":"{w.HEADLINES[plan % 6]}"}}}},"attributes":{{"autoRenew":{_flag(draw >> 36)}{extra}}},'
        f'"tracking":{{"offers":["{offer}"],"purchaseCountryCode":"{w.COUNTRIES[place]}",'
        f'"accountId":"A{draw & 0xFFFFFFFF:010d}","contactId":{_maybe(draw >> 40, "C", position)}}}'
    )
    if not full:
        return head + "}}"
    return (
        f'{head},"offer":{{"mode":"production","path":"{offer}","version":"{draw:016x}","data":{{"record_type":"offer",'
        f'"name":"{w.PLANS[plan]}","attributes":{{"display_name__limio":"{w.PLANS[plan]}","price__limio":[{{"name":"charge",'
        f'"label":"{w.HEADLINES[plan % 6]}","value":"{w.PRICES[plan]}","currencyCode":"{w.CURRENCIES[place]}",'
        f'"type":"recurring","trigger":"order_date","repeat_interval":1,"repeat_interval_type":"months"}}]}},'
        f'"productBundles":[{{"revenue_split":"100","product_path":"/products/{w.PLANS[plan]}","rate_plan":"monthly"}}]}}}},'
        f'"relatedOrder":"{order}","revision":{revision}}}}}'
    )


def customer(links: Links, id_: str, position: int, draw: int, revision: int, created: int, updated: int, full: bool) -> str:
    """A customer, with personal details; some have no email or no company."""
    first = w.FIRST_NAMES[(draw >> 20) & 15]
    last = w.LAST_NAMES[(draw >> 24) & 15]
    place = (draw >> 28) & 7
    email = f'"user{position}.{draw & 0xFFFF:04x}@example.com"' if draw & 0x1F0000000000 else "null"
    company = f',"companyName":"{w.COMPANIES[(draw >> 32) % 6]}"' if (draw >> 34) & 3 == 0 else ""
    held = ",".join(f'"{links.link("subscriptions", one)}"' for one in links.held(position)[:20])
    head = (
        f'{{"id":"{id_}","name":"{first} {last}","record_type":"customer","service":"{links.service}",'
        f'"status":"active","owner":"{links.link("identities", position)}","mode":"production",'
        f'"created":"{iso(created)}","updated":"{iso(updated)}","data":{{"customerDetails":{{"email":{email},'
        f'"firstName":"{first}","lastName":"{last}","phone":"+44 20 7946 {draw & 0x1FFF:04d}"{company}}},'
        f'"attributes":{{"newsletter":{_flag(draw >> 36)},"segment":"s{(draw >> 44) & 15}",'
        f'"visits":{revision + (draw >> 50 & 63)}}},'
        f'"billingDetails":{{"address1":"{1 + (draw >> 10 & 127)} {w.STREETS[(draw >> 38) % 6]}","city":"{w.CITIES[place]}",'
        f'"countryCode":"{w.COUNTRIES[place]}","postalCode":"{draw >> 48 & 0xFFFF:05d}","state":null}},"subscriptions":[{held}]'
    )
    if not full:
        return head + "}}"
    return (
        f'{head},"deliveryDetails":{{"address1":"{w.STREETS[(draw >> 41) % 6]}","city":"{w.CITIES[place]}",'
        f'"countryCode":"{w.COUNTRIES[place]}"}},"preferences":{{"language":"en","channels":["email","post"]}},'
        f'"revision":{revision}}}}}'
    )


def order(links: Links, id_: str, position: int, draw: int, revision: int, created: int, updated: int, full: bool) -> str:
    """An order: tracking but no price, as observed."""
    plan = (draw >> 20) & 7
    place = (draw >> 24) & 7
    owner = links.owner(position)
    last = w.LAST_NAMES[(draw >> 38) & 15]
    external = f'"ext-{draw & 0xFFFFFFFF:08x}"' if (draw >> 32) & 3 else "null"
    head = (
        f'{{"id":"{id_}","name":"{id_[6:18]}","order_reference":"{(draw >> 12) & 0xFFFFFFFF:010d}","record_type":"order",'
        f'"service":"{links.service}","status":"{w.ORDER_STATUSES[((draw >> 28) + revision * 3) & 7]}",'
        f'"order_type":"{w.ORDER_TYPES[(draw >> 34) & 7]}","owner":"{links.link("identities", owner)}",'
        f'"customer":"{links.link("customers", owner)}","mode":"production","external_id":{external},'
        f'"created":"{iso(created)}","updated":"{iso(updated)}","data":{{"source":"{w.SOURCES[(draw >> 42) & 3]}",'
        f'"country":"{w.COUNTRIES[place]}","orderDate":"{iso(created)}","orderItems":[{{"offer":{{"path":"/offers2/{w.PLANS[plan]}",'
        f'"version":"{draw:016x}"}},"quantity":{1 + (draw >> 46 & 1)}}}],"tracking":{{"offers":["/offers2/{w.PLANS[plan]}"],'
        f'"campaign":"/campaigns/c{draw >> 50 & 31}","tag":"/tags/{w.COUNTRIES[place].lower()}/default",'
        f'"purchaseCountryCode":"{w.COUNTRIES[place]}"}},"subscriptionReference":"{links.link("subscriptions", position)}"'
    )
    if not full:
        return head + "}}"
    return (
        f'{head},"customerDetails":{{"firstName":"{w.FIRST_NAMES[(draw >> 44) & 15]}","lastName":"{last}",'
        f'"email":"user{owner}@example.com"}},"billingDetails":{{"city":"{w.CITIES[place]}","countryCode":"{w.COUNTRIES[place]}"}},'
        f'"payment":{{"type":"zuora"}},"process_immediately":false,"revision":{revision}}}}}'
    )


def event(links: Links, id_: str, position: int, draw: int, revision: int, created: int, updated: int, full: bool) -> str:
    """An event of the timeline, which names its subscriptions inside ``data.event``."""
    name = w.EVENT_TYPES[(draw >> 20) & 3]
    subject = links.link("subscriptions", position)
    order_id = links.link("orders", position)
    head = (
        f'{{"id":"{id_}","name":"{name}","record_type":"event","service":"{links.service}",'
        f'"status":"{w.EVENT_STATUSES[(draw >> 24) & 3]}","mode":"production","created":"{iso(created)}",'
        f'"updated":"{iso(updated)}","data":{{"type":"{name}","message":"{w.MESSAGES[(draw >> 28) & 3]}",'
        f'"event":{{"order":"{order_id}","subscriptions":[{{"id":"{subject}","name":"REF{draw >> 32:010d}"}}],'
        f'"source":"{w.SOURCES[(draw >> 34) & 3]}","customer":"{links.link("customers", links.owner(position))}",'
        f'"changes":[{{"field":"status","from":null,"to":"active","at":"{iso(created)}"}},'
        f'{{"field":"price","from":{w.PRICES[draw >> 40 & 7]},"to":{w.PRICES[draw >> 43 & 7]},"at":"{iso(updated)}"}}]}}'
    )
    if not full:
        return head + "}}"
    return f'{head},"additionalInfo":{{"ip":"203.0.113.{draw & 255}","userAgent":"Mozilla/5.0"}},"revision":{revision}}}}}'


def _flag(bits: int) -> str:
    return "true" if bits & 1 else "false"


def _maybe(bits: int, letter: str, number: int) -> str:
    return f'"{letter}{number:08d}"' if bits & 7 else "null"
