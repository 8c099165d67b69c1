#pragma once
// What a result file says, as tables: with every column for programs, reduced to what matters for people.

#include <string>

#include "results/result_store.h"
#include "results/table.h"

namespace hindsight {

/// What a row is of.
enum class ReportBy { point, method, layer, head, step };

/// What is asked first: methods where there are several traces, else points.
ReportBy default_grouping(const ResultReader& results);

/// A row per point (as /summary), per method (its mean over traces, as /summary_over_traces), or per point
/// and layer, query head or range of steps. Of the last three, a column `<series>_mean` is the mean of that
/// series over its other dimensions, undefined values left out (of latencies, `<series>_p50` is the median);
/// counts (histograms) are left out; a head shares the values of its selection unit; steps come in at most 16
/// ranges of equal width, [step_from, step_to]. Keys and parameters as in summary_table.h. Throws ConfigError
/// where no series of the file has the dimension asked for.
KeyedTable report(const ResultReader& results, ReportBy by);

/// Sorts by any column. Throws ConfigError naming the nearest column where there is none of that name.
void sort_report(KeyedTable& report, const std::string& column);

/// The columns to read (reduced_table.h): the keys that differ between rows, the key metrics, and `also`.
Table for_people(const KeyedTable& report, const std::string& also = "");

}  // namespace hindsight
