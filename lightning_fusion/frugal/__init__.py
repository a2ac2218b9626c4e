"""FrugalFoE: a query policy that decides sample by sample which experts to query."""
