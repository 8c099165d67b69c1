// Tables as people and programs read them.

#include "results/table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace hindsight::test {
namespace {

Table small_table() {
  Table table({"name", "budget.ratio", "rel_l2_final_mean", "bytes"});
  table.add_row({std::string("quest"), 0.1, 0.123456, int64_t{1234567}});
  table.add_row({std::string("größer"), undefined_cell(), 1.234e-7, int64_t{8}});
  return table;
}

TEST(Table, TextIsAlignedAndItsHeadingsAreBroken) {
  EXPECT_EQ(small_table().render(),
            "                   rel_l2_\n"
            "        budget.     final_\n"
            "name      ratio       mean    bytes\n"
            "------  -------  ---------  -------\n"
            "quest       0.1     0.1235  1234567\n"
            "größer        -  1.234e-07        8\n");
}

TEST(Table, MarkdownKeepsHeadingsWholeAndEscapesBars) {
  Table table({"name", "x"});
  table.add_row({std::string("a|b"), 0.25});
  EXPECT_EQ(table.render(TableFormat::markdown),
            "| name |    x |\n"
            "| ---- | ---: |\n"
            "| a\\|b | 0.25 |\n");
}

TEST(Table, CsvHasEveryDigitAndQuotes) {
  Table table({"name", "x", "n"});
  table.add_row({std::string("a,\"b\"\r\n"), 0.1 + 0.2, int64_t{-3}});
  table.add_row({std::string(), undefined_cell(), undefined_cell()});
  EXPECT_EQ(table.render(TableFormat::csv),
            "name,x,n\n"
            "\"a,\"\"b\"\"\r\n\",0.30000000000000004,-3\n"
            ",,\n");
}

TEST(Table, JsonIsReadBackWithNullForUndefined) {
  Table table({"z", "a", "n"});
  table.add_row({std::string("q\"\xff"), 0.1 + 0.2, int64_t{9007199254740993}});
  table.add_row({undefined_cell(), undefined_cell(), std::numeric_limits<double>::infinity()});
  const auto rows = nlohmann::ordered_json::parse(table.render(TableFormat::json));
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].begin().key(), "z") << "columns keep their order";
  EXPECT_EQ(rows[0]["a"].get<double>(), 0.1 + 0.2);
  EXPECT_EQ(rows[0]["n"].get<int64_t>(), 9007199254740993);
  for (const char* column : {"z", "a", "n"}) EXPECT_TRUE(rows[1][column].is_null()) << column;
}

TEST(Table, WithoutRowsHasItsHeadings) {
  const Table table({"name", "x"});
  EXPECT_EQ(table.render(), "name  x\n----  -\n");
  EXPECT_EQ(table.render(TableFormat::csv), "name,x\n");
  EXPECT_EQ(table.render(TableFormat::json), "[]\n");
}

TEST(Table, SortsAscendingUndefinedLastEqualRowsAsTheyWere) {
  Table table({"name", "x"});
  for (const auto& [name, x] : std::vector<std::pair<std::string, Cell>>{
           {"a", 2.0}, {"b", undefined_cell()}, {"c", 1.0}, {"d", 2.0}, {"e", -1.0}})
    table.add_row({name, x});
  table.sort_by("x");
  std::string order;
  for (const auto& row : table.rows()) order += cell_text(row[0]);
  EXPECT_EQ(order, "ecadb");
  EXPECT_THROW(table.sort_by("y"), std::out_of_range);
}

TEST(Table, RefusesRowsOfAnotherLength) {
  Table table({"name", "x"});
  EXPECT_THROW(table.add_row({std::string("a")}), std::invalid_argument);
}

TEST(Table, ShowsNumbersAsTheyAreCompared) {
  EXPECT_EQ(cell_text(0.000123456), "0.0001235");
  EXPECT_EQ(cell_text(43210987.4), "43210987");
  EXPECT_EQ(cell_text(1e20), "1e+20");
  EXPECT_EQ(cell_text(undefined_cell()), "-");
  EXPECT_EQ(cell_text(int64_t{1} << 60), "1152921504606846976");
}

}  // namespace
}  // namespace hindsight::test
