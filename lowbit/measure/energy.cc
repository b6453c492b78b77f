// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/energy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>

namespace lowbit {
namespace {

namespace fs = std::filesystem;

/// The first line of a small file.
Result<std::string> line_of(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "r"),
                                                             &std::fclose);
  constexpr int longest = 256;
  char text[longest];
  if (!file || std::fgets(text, longest, file.get()) == nullptr) {
    return Error(fmt::format("{}: {}", path, std::strerror(errno)));
  }
  std::string line(text);
  line.erase(std::find(line.begin(), line.end(), '\n'), line.end());
  return line;
}

Result<std::int64_t> number_of(const std::string& path) {
  const auto line = line_of(path);
  if (!line) return line.error();
  char* end = nullptr;
  const std::int64_t number = std::strtoll(line->c_str(), &end, 10);
  if (end == line->c_str() || *end != '\0' || number < 0) {
    return Error(fmt::format("{}: \"{}\" is no counter", path, *line));
  }
  return number;
}

/// Folders of counters: intel-rapl:0 is a package, intel-rapl:0:2 a part of it. Other trees
/// (intel-rapl-mmio, psys) count the same energy again.
std::vector<std::string> counter_folders(const std::string& folder) {
  constexpr std::string_view tree = "intel-rapl:";
  std::vector<std::string> found;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->path().filename().string().starts_with(tree)) {
      found.push_back(entry->path().string());
    }
  }
  std::ranges::sort(found);
  return found;
}

}  // namespace

Result<EnergyMeter> EnergyMeter::open(const std::string& folder) {
  EnergyMeter meter;
  std::string package;
  for (const std::string& path : counter_folders(folder)) {
    const auto name = line_of(path + "/name");
    if (!name) return name.error();
    const bool is_package = name->starts_with("package");
    if (!is_package && *name != "dram") continue;
    if (is_package) package = *name;
    const auto range = number_of(path + "/max_energy_range_uj");
    if (!range) return range.error();
    const auto now = number_of(path + "/energy_uj");
    if (!now) return now.error();
    meter.domains_.push_back({path, *range, *now});
    meter.names_.push_back(is_package ? *name : package + " dram");
  }
  if (meter.domains_.empty()) {
    std::error_code error;
    return Error(fs::exists(folder, error)
                     ? fmt::format("{} holds no RAPL counters", folder)
                     : fmt::format("this machine shows no RAPL counters (no {})", folder));
  }
  return meter;
}

Result<double> EnergyMeter::joules() {
  constexpr double micro = 1e-6;
  double sum = 0;
  for (Domain& domain : domains_) {
    const auto now = number_of(domain.folder + "/energy_uj");
    if (!now) return now.error();
    const std::int64_t used = *now - domain.last;
    sum += static_cast<double>(used >= 0 ? used : used + domain.range) * micro;
    domain.last = *now;
  }
  return sum;
}

}  // namespace lowbit
