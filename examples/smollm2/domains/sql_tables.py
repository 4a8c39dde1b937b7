"""The tables that are asked about. No table is in both parts, and neither is a value of a text column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from examples.smollm2.question import Part


@dataclass(frozen=True)
class Column:
    """A column of a table. `kind`: what its texts are, a key of VALUES; "" for numbers."""

    name: str
    kind: str

    @property
    def is_number(self) -> bool:
        return not self.kind


def _tables(**tables: str) -> dict[str, tuple[Column, ...]]:
    """Tables from the names of their columns; those of texts have a kind after a colon."""
    return {name: tuple(_column(text) for text in columns.split()) for name, columns in tables.items()}


def _column(text: str) -> Column:
    name, _, kind = text.partition(":")
    return Column(name, kind)


TABLES: Mapping[Part, Mapping[str, tuple[Column, ...]]] = {
    "train": _tables(
        orders="customer:name city:city status:status amount quantity",
        employees="name:name department:field city:city salary age",
        products="name:thing category:field price stock",
        students="name:name course:field grade age",
        books="title:thing author:name genre:field pages price",
        movies="title:thing director:name genre:field rating year",
        customers="name:name city:city plan:status points",
        flights="airline:name origin:city destination:city seats price",
        hotels="name:thing city:city stars rooms price",
        cars="brand:thing color:color owner:name mileage price",
        houses="city:city owner:name rooms area rent",
        invoices="client:name status:status total year",
        players="name:name team:city position:field goals age",
        songs="title:thing artist:name genre:field length plays",
        sensors="place:city status:status temperature humidity",
        shops="name:thing city:city manager:name revenue visitors",
        trees="species:thing park:city height age",
        animals="name:name species:thing color:color weight age",
        tickets="title:thing status:status assignee:name priority hours",
        devices="owner:name model:thing status:status memory battery",
        recipes="name:thing cuisine:field calories minutes",
        payments="payer:name method:field status:status amount fee",
        bikes="brand:thing color:color station:city gears price",
        teachers="name:name subject:field school:city hours salary",
        packages="sender:name destination:city status:status weight cost",
        lamps="room:thing color:color watts lumens",
        runners="name:name club:city distance time",
        courses="title:thing teacher:name field:field credits seats",
        servers="name:thing region:city status:status cores load",
        accounts="owner:name bank:city kind:field balance limit_amount",
    ),
    "held_out": _tables(
        patients="name:name ward:field city:city age weight",
        ships="name:thing harbor:city flag:color tonnage crew",
        museums="name:thing town:city curator:name visitors fee",
        phones="maker:thing color:color storage price",
        concerts="band:name venue:city genre:field seats price",
        farms="farmer:name region:city crop:field acres cows",
        loans="borrower:name state:status sum_due rate",
        games="title:thing studio:name genre:field score year",
        bridges="name:thing river:city length lanes",
        parcels="receiver:name town:city state:status weight postage",
        guests="name:name room:thing country:city nights age",
        wines="name:thing region:city color:color year price",
    ),
}
VALUES: Mapping[Part, Mapping[str, tuple[str, ...]]] = {
    "train": {
        "name": (
            *("Anna", "Ben", "Carla", "David", "Emma", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Karim"),
            *("Laura", "Miguel", "Nora", "Oscar", "Priya", "Quinn", "Rosa", "Stefan", "Tara", "Umar", "Vera"),
        ),
        "city": (
            *("Paris", "Rome", "Berlin", "Madrid", "Vienna", "Oslo", "London", "Boston", "Tokyo", "Cairo"),
            *("Lisbon", "Prague", "Dublin", "Chicago", "Sydney", "Toronto", "Athens", "Helsinki", "Denver"),
        ),
        "status": ("open", "closed", "paid", "pending", "active", "shipped", "cancelled", "new", "done"),
        "field": (
            *("sports", "music", "history", "biology", "sales", "garden", "kitchen", "drama", "finance"),
            *("travel", "physics", "art", "toys", "comedy", "support", "marketing", "basic", "office"),
        ),
        "color": ("red", "blue", "green", "black", "white", "yellow", "silver", "orange"),
        "thing": (
            *("Alpha", "Sunrise", "Maple", "Rocket", "Harmony", "Pioneer", "Willow", "Falcon", "Comet"),
            *("Breeze", "Granite", "Lotus", "Mustang", "Oak", "Pearl", "Tiger", "Echo", "Crystal"),
        ),
    },
    "held_out": {
        "name": ("Amir", "Bella", "Chen", "Dora", "Elias", "Fiona", "Goran", "Hana", "Ivan", "Julia", "Leo"),
        "city": (
            "Warsaw",
            "Milan",
            "Geneva",
            "Seattle",
            "Kyoto",
            "Lima",
            "Porto",
            "Bergen",
            "Austin",
            "Lyon",
        ),
        "status": ("late", "approved", "waiting", "returned", "expired", "draft"),
        "field": ("surgery", "jazz", "chemistry", "wheat", "puzzle", "legal", "apples", "opera", "logic"),
        "color": ("purple", "brown", "pink", "grey", "golden"),
        "thing": ("Aurora", "Beacon", "Cedar", "Dolphin", "Ember", "Horizon", "Ivory", "Juniper", "Nova"),
    },
}
