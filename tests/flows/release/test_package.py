"""What a package is for: the product that the checkout names."""

from flows.release.package import product_of


def test_a_checkout_of_before_the_tasks_keeps_its_product(tmp_path):
    """Its params.yaml named the product; where recipe.yaml does not, that still counts, for a rollback above all."""
    (tmp_path / "params.yaml").write_text("package: {product: denoise}\n")
    (tmp_path / "recipe.yaml").write_text("recipe: {name: ensemble, scale: demo}\n")
    assert product_of(tmp_path) == "denoise"
    (tmp_path / "params.yaml").write_text("release: {}\n")
    (tmp_path / "recipe.yaml").write_text("package: {product: dejpeg}\n")
    assert product_of(tmp_path) == "dejpeg"
