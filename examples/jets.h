// Reads jets from a text file, for the examples.
#pragma once

#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

// E px py pz of each constituent, in GeV.
template <class Number>
using Jet = std::vector<Number>;

// A line is one jet.
template <class Number>
std::vector<Jet<Number>> read_jets(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  std::vector<Jet<Number>> jets;
  for (std::string line; std::getline(file, line);) {
    std::istringstream numbers(line);
    Jet<Number> jet;
    for (Number number; numbers >> number;) jet.push_back(number);
    if (!numbers.eof() || jet.size() % 4 != 0)
      throw std::runtime_error(path + ": line " + std::to_string(jets.size() + 1) +
                               ": expected four numbers for each constituent");
    jets.push_back(jet);
  }
  return jets;
}
