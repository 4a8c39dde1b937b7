"""The facts that the questions are about."""

from __future__ import annotations

_CAPITALS = """
    France Paris, Germany Berlin, Spain Madrid, Italy Rome, Portugal Lisbon, Austria Vienna,
    Belgium Brussels, Poland Warsaw, Norway Oslo, Sweden Stockholm, Finland Helsinki,
    Denmark Copenhagen, Greece Athens, Hungary Budapest, Ireland Dublin, Iceland Reykjavik,
    Romania Bucharest, Bulgaria Sofia, Serbia Belgrade, Croatia Zagreb, Ukraine Kyiv, Russia Moscow,
    Turkey Ankara, Egypt Cairo, Kenya Nairobi, Ghana Accra, Nigeria Abuja, Morocco Rabat,
    Tunisia Tunis, Senegal Dakar, Angola Luanda, Uganda Kampala, China Beijing, Japan Tokyo,
    India Delhi, Thailand Bangkok, Vietnam Hanoi, Nepal Kathmandu, Iran Tehran, Iraq Baghdad,
    Jordan Amman, Lebanon Beirut, Qatar Doha, Oman Muscat, Mongolia Ulaanbaatar, Indonesia Jakarta,
    Canada Ottawa, Cuba Havana, Jamaica Kingston, Peru Lima, Chile Santiago, Colombia Bogota,
    Ecuador Quito, Uruguay Montevideo, Paraguay Asuncion, Venezuela Caracas, Australia Canberra,
    Fiji Suva, Albania Tirana, Estonia Tallinn
"""
_ELEMENTS = """
    hydrogen H 1, helium He 2, lithium Li 3, beryllium Be 4, boron B 5, carbon C 6, nitrogen N 7,
    oxygen O 8, fluorine F 9, neon Ne 10, sodium Na 11, magnesium Mg 12, aluminium Al 13,
    silicon Si 14, phosphorus P 15, sulfur S 16, chlorine Cl 17, argon Ar 18, potassium K 19,
    calcium Ca 20, titanium Ti 22, chromium Cr 24, manganese Mn 25, iron Fe 26, cobalt Co 27,
    nickel Ni 28, copper Cu 29, zinc Zn 30, arsenic As 33, bromine Br 35, krypton Kr 36,
    silver Ag 47, tin Sn 50, iodine I 53, xenon Xe 54, tungsten W 74, platinum Pt 78, gold Au 79,
    mercury Hg 80, lead Pb 82, radon Rn 86, uranium U 92
"""
_MORSE = """
    A .-, B -..., C -.-., D -.., E ., F ..-., G --., H ...., I .., J .---, K -.-, L .-.., M --,
    N -., O ---, P .--., Q --.-, R .-., S ..., T -, U ..-, V ...-, W .--, X -..-, Y -.--, Z --..,
    1 .----, 2 ..---, 3 ...--, 4 ....-, 5 ....., 6 -...., 7 --..., 8 ---.., 9 ----., 0 -----
"""


def _pairs(table: str) -> dict[str, str]:
    pairs = (entry.split() for entry in table.split(","))
    return {pair[0]: pair[1] for pair in pairs}


CAPITALS = _pairs(_CAPITALS)
# (name, symbol, atomic number)
ELEMENTS = tuple((name, symbol, number) for name, symbol, number in map(str.split, _ELEMENTS.split(",")))
MORSE = _pairs(_MORSE)
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
# In a year that is not a leap year.
MONTH_LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
