"""Every work that a claim, a probe, a rule or a layer cites, by key."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """One cited work: authors, year, title, where it appeared and, where there is one, its address."""

    authors: str
    year: int
    title: str
    venue: str
    url: str = ""

    def __str__(self) -> str:
        stop = "" if self.title.endswith(("?", "!")) else "."
        return f"{self.authors} ({self.year}). {self.title}{stop} {self.venue}."


WORKS: dict[str, Work] = {
    "alpaydin1998": Work(
        "Alpaydin & Kaynak",
        1998,
        "Optical recognition of handwritten digits",
        "UCI Machine Learning Repository",
        "https://doi.org/10.24432/C50P49",
    ),
    "benz2021": Work(
        "Benz, Zhang, Karjauv & Kweon",
        2021,
        "Revisiting batch normalization for improving corruption robustness",
        "WACV",
        "https://arxiv.org/abs/2010.03630",
    ),
    "bjorck2018": Work(
        "Bjorck, Gomes, Selman & Weinberger",
        2018,
        "Understanding batch normalization",
        "NeurIPS",
        "https://arxiv.org/abs/1806.02375",
    ),
    "chan1979": Work(
        "Chan, Golub & LeVeque",
        1979,
        "Updating formulae and a pairwise algorithm for computing sample variances",
        "Stanford University technical report STAN-CS-79-773",
    ),
    "de2020": Work(
        "De & Smith",
        2020,
        "Batch normalization biases residual blocks towards the identity function in deep networks",
        "NeurIPS",
        "https://arxiv.org/abs/2002.10444",
    ),
    "he2015": Work(
        "He, Zhang, Ren & Sun",
        2015,
        "Delving deep into rectifiers: surpassing human-level performance on ImageNet classification",
        "ICCV",
        "https://arxiv.org/abs/1502.01852",
    ),
    "hoffer2017": Work(
        "Hoffer, Hubara & Soudry",
        2017,
        "Train longer, generalize better: closing the generalization gap in large batch training of neural networks",
        "NeurIPS",
        "https://arxiv.org/abs/1705.08741",
    ),
    "ioffe2015": Work(
        "Ioffe & Szegedy",
        2015,
        "Batch normalization: accelerating deep network training by reducing internal covariate shift",
        "ICML",
        "https://arxiv.org/abs/1502.03167",
    ),
    "ioffe2017": Work(
        "Ioffe",
        2017,
        "Batch renormalization: towards reducing minibatch dependence in batch-normalized models",
        "NeurIPS",
        "https://arxiv.org/abs/1702.03275",
    ),
    "lecture": Work("Ng", 2017, "Why does batch norm work?", "Improving deep neural networks, lecture"),
    "li2018": Work(
        "Li, Chen, Hu & Yang",
        2018,
        "Understanding the disharmony between dropout and batch normalization by variance shift",
        "CVPR 2019",
        "https://arxiv.org/abs/1801.05134",
    ),
    "luo2019": Work(
        "Luo, Wang, Shao & Peng",
        2019,
        "Towards understanding regularization in batch normalization",
        "ICLR",
        "https://arxiv.org/abs/1809.00846",
    ),
    "morcos2018": Work(
        "Morcos, Barrett, Rabinowitz & Botvinick",
        2018,
        "On the importance of single directions for generalization",
        "ICLR",
        "https://arxiv.org/abs/1803.06959",
    ),
    "santurkar2018": Work(
        "Santurkar, Tsipras, Ilyas & Madry",
        2018,
        "How does batch normalization help optimization?",
        "NeurIPS",
        "https://arxiv.org/abs/1805.11604",
    ),
    "schneider2020": Work(
        "Schneider, Rusak, Eck, Bringmann, Brendel & Bethge",
        2020,
        "Improving robustness against common corruptions by covariate shift adaptation",
        "NeurIPS",
        "https://arxiv.org/abs/2006.16971",
    ),
    "shekhovtsov2018": Work(
        "Shekhovtsov & Flach",
        2018,
        "Stochastic normalizations as Bayesian learning",
        "ACCV",
        "https://arxiv.org/abs/1811.00639",
    ),
    "srivastava2014": Work(
        "Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov",
        2014,
        "Dropout: a simple way to prevent neural networks from overfitting",
        "JMLR 15",
    ),
    "summers2020": Work(
        "Summers & Dinneen",
        2020,
        "Four things everyone should know to improve batch normalization",
        "ICLR",
        "https://arxiv.org/abs/1906.03548",
    ),
    "wu2021": Work(
        "Wu & Johnson",
        2021,
        'Rethinking "batch" in BatchNorm',
        "arXiv",
        "https://arxiv.org/abs/2105.07576",
    ),
}


def cite(key: str) -> Work:
    """The work with `key`; an unknown key is an error of the package, not of its user."""
    return WORKS[key]
